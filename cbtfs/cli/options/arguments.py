"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.core.units import parse_duration
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.core.audit import Sampling


def duration_parser(minimum: float) -> Callable[[object], float]:
    """Return a parser for options whose value is a duration of at least *minimum* seconds."""

    def parse(given: object) -> float:
        try:
            seconds = parse_duration(str(given))
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
        if seconds < minimum:
            raise typer.BadParameter(f"{str(given)!r} is less than {minimum:g} s")
        return seconds

    return parse


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
PointName = Annotated[
    str,
    typer.Argument(
        metavar="POINT",
        show_default=False,
        help="VM, VM@latest, VM@latest~1, VM@good, VM@-2d, VM@TIME or the start of an id; "
        "a TIME means the newest point that is not later.",
    ),
]
TimeZone = Annotated[
    str,
    typer.Option(
        "--time-zone",
        metavar="ZONE",
        help="Zone of times without an offset, such as Europe/Berlin; local is this machine's.",
    ),
]
LOCAL: Final = "local"
DiskName = Annotated[
    str,
    typer.Argument(metavar="DISK", show_default=False, help="The disk's label or id."),
]
LockWait = Annotated[
    float,
    typer.Option(
        "--lock-wait",
        metavar="T",
        parser=duration_parser(0),
        help="Time to wait for another writer: 90s, 30m, 4h or 1d.",
    ),
]
MAX_LEVEL: Final = 19
MAX_THREADS: Final = 64
AUDIT: Final = "0.1%"
"""Of the blocks that a change list calls unchanged: docs/decisions/ tells what an audit reads."""
Audit = Annotated[
    str,
    typer.Option(
        metavar="P%",
        help="Read also this share of what a change list calls unchanged, and compare: 0 for none.",
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_LEVEL,
        show_default="the repository's",
        help="zstd level of what is stored now, 1 to 19.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_THREADS,
        show_default="one for each core",
        help="Threads that read, hash and compress a disk; each takes some 10 MiB.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def example(*lines: str) -> str:
    """An epilog of the help that shows how a command is called, line by line."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def sampling_of(text: str) -> Sampling | None:
    """What `--audit` says; None for no audit."""
    from cbtfs.core.audit import Sampling

    try:
        share = float(text.removesuffix("%")) / 100
        if share == 0:
            return None
        if not text.endswith("%"):
            raise ValueError(text)
        return Sampling(share)
    except ValueError as exc:
        raise UsageError(
            f"--audit {text} is no share: give one from 0% to 100%, such as {AUDIT}, or 0"
        ) from exc
