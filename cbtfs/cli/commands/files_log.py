"""`cbtfs files log`: the versions of a file over the points of a VM."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import Json
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.engines import AUTO, EngineName, KeyFiles, engines
from cbtfs.cli.report.output import emit, note, print_table
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.files.engines import Engines
    from cbtfs.files.history import Version
    from cbtfs.files.log import FilePath
    from cbtfs.listing import Point
    from cbtfs.store.repository import Repository


def log(
    context: typer.Context,
    location: Annotated[
        str,
        typer.Argument(
            metavar="VM:/PATH",
            show_default=False,
            help="A VM, and an absolute path in the guest: web01:/etc/hosts.",
        ),
    ],
    volume: Annotated[
        str | None,
        typer.Option(
            "--volume",
            metavar="V",
            show_default="the one with PATH in the newest point",
            help="Volume whose root is /, as in the other commands of 'files'.",
        ),
    ] = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    json: Json = False,
) -> None:
    """List all versions of a file.

    A version is what consecutive points have in common: type, mode, owner, size, times, target of a
    link, and content. Points at which the file does not exist, or its file system cannot be read,
    are versions, too. Links are not followed below the volume.

    Only points at which the file can have changed are opened: for the others, the block maps show
    that its inode, the directories of its path and its content are equal. An appliance is started
    for each point at which a block of the volume changed, because its reads are not known.
    """
    from cbtfs.files.engine_parse.processes import ParsersByKind
    from cbtfs.files.log import file_versions
    from cbtfs.files.protocol import GuestFileMissing
    from cbtfs.reader import Reader
    from cbtfs.store.repository import reading

    vm, separator, rest = location.partition(":/")
    if not separator or not vm:
        raise UsageError(f"{location!r} is not VM:/PATH; e.g. web01:/etc/hosts")
    with (
        reading(readable_path(context)) as repository,
        closing(ParsersByKind()) as servers,
    ):
        chosen = replace(engines(context, engine, luks_key_file), servers=servers)
        points = _points(repository, vm)
        place = _locate(repository, points[-1], volume, "/" + rest, chosen)
        manifests = [point.manifest for point in points]
        found = list(file_versions(Reader(repository), manifests, place, chosen))
    name = place.volume
    if all(version.sighting.state is None for version in found):
        raise GuestFileMissing(f"{location}: no point has this file on volume {name}")
    used = dict.fromkeys(filter(None, map(_engine, found)))
    note(", ".join([f"volume {name}", f"{len(points)} points", *(f"engine {e}" for e in used)]))
    if json:
        documents = [_document(version, points) for version in found]
        document = {"vm": points[-1].vm_label, "volume": name, "path": place.path}
        emit({**document, "versions": documents})
    else:
        header = ["first", "last", "points", "mode", "size", "modified"]
        print_table(header, [_row(version, points) for version in found], ["points", "size"])


def _points(repository: Repository, name: str) -> list[Point]:
    """Return the points of a VM that can be read."""
    from cbtfs.errors import PointNotFound
    from cbtfs.listing import find_vm, labelled, points, vm_names

    with repository.catalog.view() as view:
        names = vm_names(view)
        found = [labelled(point, names) for point in points(view, find_vm(view, name).id)]
    intact = [point for point in found if not point.is_damaged and not point.is_missing]
    if len(intact) < len(found):
        note(f"{len(found) - len(intact)} damaged or missing points are left out")
    if not intact:
        raise PointNotFound(f"VM {name!r} has no point that can be read")
    return intact


def _locate(
    repository: Repository, newest: Point, volume: str | None, path: str, engines: Engines
) -> FilePath:
    """Return the place of a file in the guest. The file may have been deleted."""
    from cbtfs.files.log import FilePath
    from cbtfs.files.point import open_files
    from cbtfs.files.protocol import GuestFileMissing

    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"{path}: '..' is not allowed in the path of a log")
    if volume is not None:
        return FilePath(volume, "/" + "/".join(parts))
    with open_files(repository, newest.manifest, None, engines) as files:
        for count in range(len(parts), -1, -1):
            top = "/" + "/".join(parts[:count])
            try:
                file = files.tree.find(top, follows=count < len(parts))
            except GuestFileMissing:
                continue
            inner = "/".join([file.inner.rstrip("/"), *parts[count:]]) or "/"
            placed = file.volume
            return FilePath(placed.device or placed.name, inner, placed.subvolume)
    raise GuestFileMissing(f"{path}: name its volume with --volume")


def _engine(version: Version) -> str | None:
    """Return the engine that read the first point of a version; None if none could, or had to."""
    from cbtfs.files.log import FileState

    state = version.sighting.state
    return state.engine or None if isinstance(state, FileState) else None


def _row(version: Version, points: list[Point]) -> list[str]:
    from cbtfs.cli.report.guest_files import format_mode, format_time
    from cbtfs.files.log import FileState

    first, last = points[version.first], points[version.last]
    count, state = str(version.last - version.first + 1), version.sighting.state
    cells = [first.manifest.name, last.manifest.name, count]
    if not isinstance(state, FileState):
        return [*cells, "(absent)", "", ""]
    if state.entry is None:
        return [*cells, f"({state.failure})", "", ""]
    entry = state.entry
    modified = format_time(entry.modified_ns // 1_000_000_000 * 1_000_000_000) or "?"
    return [*cells, format_mode(entry), str(entry.size), modified]


def _document(version: Version, points: list[Point]) -> Document:
    from cbtfs.cli.report.guest_files import format_time
    from cbtfs.files.log import FileState

    state = version.sighting.state
    known = state if isinstance(state, FileState) else None
    entry = known.entry if known is not None else None
    return {
        "first": points[version.first].manifest.point,
        "last": points[version.last].manifest.point,
        "first_name": points[version.first].manifest.name,
        "last_name": points[version.last].manifest.name,
        "points": version.last - version.first + 1,
        "state": "absent" if known is None else "present" if entry is not None else "unreadable",
        "failure": known.failure or None if known is not None else None,
        "type": entry.kind.value if entry is not None else None,
        "mode": f"{entry.mode:04o}" if entry is not None else None,
        "owner": entry.owner if entry is not None else None,
        "group": entry.group if entry is not None else None,
        "size": entry.size if entry is not None else None,
        "inode": entry.inode if entry is not None else None,
        "modified": format_time(entry.modified_ns) if entry is not None else None,
        "changed": format_time(entry.changed_ns) if entry is not None else None,
        "target": known.target or None if known is not None else None,
        "engine": _engine(version),
    }
