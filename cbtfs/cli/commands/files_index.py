"""`cbtfs files index`: indexes of the files of points, for `files find --in`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.engines import AUTO, EngineName, KeyFiles, engines
from cbtfs.cli.report.exit_status import most_severe
from cbtfs.cli.report.output import emit, report, say
from cbtfs.errors import CbtfsError, DataCorrupt, ExitCode, StoreFailed, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.file_index import IndexHeader
    from cbtfs.core.pointname import ClockContext
    from cbtfs.files.engines import Engines
    from cbtfs.listing import Point
    from cbtfs.store.file_indexes import FileIndexes
    from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class _Indexed:
    """The result for one point."""

    point: Point
    status: str
    """indexed, present, or failed."""
    header: IndexHeader | None = None
    stored_bytes: int = 0
    seconds: float = 0.0
    error: CbtfsError | None = None


def index(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POINT…",
            show_default=False,
            help="VM, VM@latest, VM@-2d, VM@TIME or the start of an id; a pattern such as "
            "'web*@latest' means one point of each matching VM.",
        ),
    ] = None,
    due: Annotated[
        bool, typer.Option("--due", help="Index all points without an index, the newest first.")
    ] = False,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Index the files of points, for searches by 'files find --in'.

    An index has path, type, mode, size and time of each file, and about 10 bytes for each. It is
    derived: 'cbtfs prune' removes it with its point, and it can be built again. An intact index is
    kept; one that is damaged, leaves something out, or is of another engine than --engine wants, is
    replaced.

    A point whose files cannot be read is recorded with the reason, so that --due does not try it
    again. Volumes and directories that cannot be read are listed, and the exit code is then 3, 20
    or 21.
    """
    from cbtfs.files.engine_parse.processes import ParsersByKind
    from cbtfs.listing import current_clock
    from cbtfs.store.file_indexes import FileIndexes
    from cbtfs.store.repository import reading

    if due == bool(names):
        raise UsageError("name points, or use --due for all points without an index")
    chosen = engines(context, engine, luks_key_file)
    results: list[_Indexed] = []
    path = readable_path(context)
    with (
        reading(path) as repository,
        FileIndexes(path) as indexes,
        closing(ParsersByKind()) as servers,
    ):
        chosen = replace(chosen, servers=servers)
        points = _points(repository, indexes, names, current_clock(time_zone))
        for point in points:
            result = _index(repository, indexes, point, chosen)
            results.append(result)
            if not json:
                report(_lines(result))
    if json:
        emit({"points": [_document(result) for result in results]})
    _conclude(results)


def _points(
    repository: Repository, indexes: FileIndexes, names: list[str] | None, clock: ClockContext
) -> list[Point]:
    """Return the points to index, each once."""
    from cbtfs.listing import find_points, labelled, points, vm_names

    if names:
        found = [point for name in names for point in find_points(repository, name, clock)]
        return list({point.manifest.point: point for point in found}.values())
    with repository.catalog.view() as view:
        known = vm_names(view)
        readable = [
            labelled(point, known)
            for point in points(view)
            if not point.is_damaged and not point.is_missing
        ]
    wanted = [point for point in readable if not _has_header(indexes, point)]
    return sorted(wanted, key=lambda point: point.manifest.time, reverse=True)


def _has_header(indexes: FileIndexes, point: Point) -> bool:
    try:
        indexes.layout(point.manifest.point)
    except DataCorrupt:
        return False
    return True


def _index(
    repository: Repository, indexes: FileIndexes, point: Point, engines: Engines
) -> _Indexed:
    from cbtfs.files.engines import Engine
    from cbtfs.files.index.build import build_index, empty_index
    from cbtfs.files.point import open_files
    from cbtfs.files.protocol import FileSystemUnsupported

    started, name = time.monotonic(), point.manifest.point
    try:
        header = indexes.verify(name).header
        others = set(header.engines) - {engines.wanted.value}
        if not header.left_out and (engines.wanted is Engine.AUTO or not others):
            return _Indexed(point, "present", header)
    except DataCorrupt:
        pass  # It is missing or damaged: it is built now.
    try:
        with open_files(repository, point.manifest, None, engines) as files:
            data, header = build_index(files, name)
            indexes.put(name, data)
    except FileSystemUnsupported as exc:
        indexes.put(name, empty_index(name, exc)[0])
        return _Indexed(point, "failed", error=exc)
    except StoreFailed:
        raise
    except CbtfsError as exc:
        return _Indexed(point, "failed", error=exc)
    seconds = time.monotonic() - started
    return _Indexed(point, "indexed", header, len(data), seconds)


def _lines(result: _Indexed) -> Iterator[str]:
    from cbtfs.core.units import format_size

    if result.header is not None:
        text = f"{result.point.spelled}: {result.status}, {result.header.files} files"
        if result.status == "indexed":
            text += f", {format_size(result.stored_bytes)}, {result.seconds:.1f} s"
        text += "".join(f", engine {engine}" for engine in result.header.engines)
        yield text


def _document(result: _Indexed) -> Document:
    from cbtfs.cli.report.documents import of_resolved

    header = result.header
    return {
        "point": result.point.manifest.point,
        **of_resolved(result.point),
        "status": result.status,
        "files": None if header is None else header.files,
        "file_systems": [
            {"path": v.place, "volume": v.volume, "kind": v.kind, "engine": v.engine}
            for v in (header.volumes if header is not None else ())
        ],
        "stored_bytes": result.stored_bytes,
        "seconds": round(result.seconds, 3),
        "left_out": [
            {"path": path, "reason": reason}
            for path, reason in (header.left_out if header is not None else ())
        ],
        "error": None if result.error is None else str(result.error),
    }


def _conclude(results: Sequence[_Indexed]) -> None:
    """List what was left out, and exit with its code."""
    failed = [result.error for result in results if result.error is not None]
    for result in results:
        if result.error is not None:
            say(f"{result.point.spelled}: {result.error}")
        elif result.header is not None and result.status == "indexed":
            for path, reason in result.header.left_out:
                say(f"{result.point.spelled}: left out: {path}: {reason}")
    if failed and len(failed) == len(results):
        raise typer.Exit(most_severe(failed))
    if failed or any(result.header is not None and result.header.left_out for result in results):
        raise typer.Exit(ExitCode.PARTIAL)
