"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.options.context import set_json
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


Json = Annotated[
    bool,
    typer.Option("--json", callback=set_json, help="Print one JSON document to standard output."),
]
PointName = Annotated[
    str,
    typer.Argument(
        metavar="POINT",
        show_default=False,
        help="VM, VM@latest, VM@latest~1, VM@good, VM@-2d, VM@TIME or the start of an id. "
        "TIME means the newest point that is not later.",
    ),
]
TimeZone = Annotated[
    str,
    typer.Option(
        "--time-zone",
        metavar="ZONE",
        help="Time zone of times without an offset, e.g. Europe/Berlin; local: of this machine.",
    ),
]
LOCAL: Final = "local"
DiskName = Annotated[
    str,
    typer.Argument(metavar="DISK", show_default=False, help="Label or id of the disk."),
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
"""Share of the blocks that a change list omits; docs/decisions/ explains what an audit reads."""
Audit = Annotated[
    str,
    typer.Option(
        metavar="P%",
        help="Share of the blocks that a change list omits to read and compare; 0: no audit.",
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_LEVEL,
        show_default="the repository's",
        help="zstd compression level of new data, 1 to 19.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_THREADS,
        show_default="one for each core",
        help="Threads that read, hash and compress a disk; each uses about 10 MiB of memory.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Report what would be done; change nothing.")
]


def example(*lines: str) -> str:
    """Return the epilog of a help page that shows *lines* as an example."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def sampling_of(text: str) -> Sampling | None:
    """Return the sampling of `--audit`; None for no audit."""
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
            f"invalid --audit {text!r}: use a percentage from 0% to 100%, e.g. {AUDIT}, or 0"
        ) from exc
