"""Options and arguments that several commands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
PointName = Annotated[
    str,
    typer.Argument(
        metavar="POINT",
        show_default=False,
        help="VM@latest, VM@TIME as the mount spells it, or the start of an id.",
    ),
]
DiskName = Annotated[
    str,
    typer.Argument(metavar="DISK", show_default=False, help="The disk's label or id."),
]
LockWait = Annotated[
    float,
    typer.Option("--lock-wait", metavar="S", min=0, help="Seconds to wait for another writer."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def example(*lines: str) -> str:
    """An epilog of the help that shows how a command is called, line by line."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
