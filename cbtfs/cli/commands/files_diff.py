"""`cbtfs files diff`: files that differ between two points."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.engines import AUTO, EngineName, KeyFiles, engines
from cbtfs.cli.report.output import emit, note, print_lines
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.files.diff import Change, Facts
    from cbtfs.files.point import PointFiles
    from cbtfs.listing import Point


def diff(
    context: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", show_default=False, help="Point to compare, named as in other commands."
        ),
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", show_default=False, help="Point to compare with.")
    ],
    path: Annotated[
        str,
        typer.Argument(metavar="/PATH", help="File or directory in the guest."),
    ] = "/",
    volume: Annotated[
        str | None,
        typer.Option(
            "--volume",
            metavar="V",
            show_default="all, placed as in the guest",
            help="Volume whose root is /, as in the other commands of 'files'.",
        ),
    ] = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """List files that were added, removed or changed between two points.

    Type, mode, owner, size, time of the last change, and content are compared. Contents are read
    only where the block maps of the points differ, so a file that was changed without a new time is
    found, too. A renamed file is removed and added.

    Files that cannot be read at one of the points are listed on standard error, and the exit code
    is then 3, 20 or 21. Differences do not change the exit code.
    """
    from cbtfs.cli.report.guest_files import (
        note_file_systems,
        of_left_out,
        report_left_out,
    )
    from cbtfs.cli.report.names import find_and_say
    from cbtfs.files.diff import differences
    from cbtfs.files.engine_parse.processes import ParsersByKind
    from cbtfs.files.point import open_files, unplaced
    from cbtfs.files.walk import LeftOut
    from cbtfs.listing import current_clock
    from cbtfs.store.repository import reading

    if not path.startswith("/"):
        raise UsageError(f"{path!r} is not an absolute path in the guest; e.g. /etc")
    clock, left_out, counts = current_clock(time_zone), LeftOut(), Counter[str]()
    chosen = engines(context, engine, luks_key_file)
    with (
        reading(readable_path(context)) as repository,
        closing(ParsersByKind()) as servers,
    ):
        chosen = replace(chosen, servers=servers)
        before, after = (find_and_say(repository, spec, clock) for spec in (a, b))
        with (
            open_files(repository, before.manifest, volume, chosen) as ours,
            open_files(repository, after.manifest, volume, chosen) as theirs,
        ):
            changes = differences(ours, theirs, path, left_out)
            if json:
                documents = [_document(change) for change in changes]
                counts.update(document["change"] for document in documents)
                emit(
                    {
                        "a": _of_point(before, ours),
                        "b": _of_point(after, theirs),
                        "path": path,
                        **_of_counts(counts),
                        "changes": documents,
                        "left_out": of_left_out(left_out),
                    }
                )
            else:
                for text in dict.fromkeys((*unplaced(ours.placement), *unplaced(theirs.placement))):
                    note(text)
                print_lines(_line(change, counts) for change in changes)
                note_file_systems(ours.tree, theirs.tree)
                note(", ".join(f"{count} {kind}" for kind, count in _of_counts(counts).items()))
    report_left_out(left_out)


def _of_counts(counts: Counter[str]) -> dict[str, int]:
    from cbtfs.files.diff import ChangeKind

    return {kind.value: counts[kind.value] for kind in ChangeKind}


def _line(change: Change, counts: Counter[str]) -> str:
    counts[change.kind.value] += 1
    reasons = ", ".join(change.aspects)
    if change.before is not None and change.after is not None and "size" in change.aspects:
        sizes = f"size {change.before.size} to {change.after.size}"
        reasons = reasons.replace("size", sizes, 1)
    return f"{change.kind.value:<7} {change.path}" + (f" ({reasons})" if reasons else "")


def _document(change: Change) -> Document:
    return {
        "path": change.path,
        "change": change.kind.value,
        "aspects": list(change.aspects),
        "before": _of_facts(change.before),
        "after": _of_facts(change.after),
    }


def _of_facts(facts: Facts | None) -> Document | None:
    from cbtfs.cli.report.guest_files import format_time
    from cbtfs.files.protocol import KIND_OF_MODE, Kind

    if facts is None:
        return None
    return {
        "type": KIND_OF_MODE.get(facts.mode & 0o170000, Kind.UNKNOWN).value,
        "mode": f"{facts.mode & 0o7777:04o}",
        "owner": facts.owner,
        "group": facts.group,
        "size": facts.size,
        "inode": facts.inode,
        "modified": format_time(facts.modified),
    }


def _of_point(point: Point, files: PointFiles) -> Document:
    from cbtfs.cli.report.documents import of_resolved
    from cbtfs.cli.report.guest_files import of_file_systems
    from cbtfs.files.point import unplaced

    return {
        "point": point.manifest.point,
        **of_resolved(point),
        "file_systems": of_file_systems(files.tree),
        "notes": list(unplaced(files.placement)),
    }
