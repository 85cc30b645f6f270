"""`cbtfs files`: files of the guest at a restore point, without root."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.commands.files_diff import diff
from cbtfs.cli.commands.files_index import index
from cbtfs.cli.commands.files_log import log
from cbtfs.cli.commands.files_search import search
from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone, example
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.engines import AUTO, EngineName, KeyFiles, engines
from cbtfs.cli.report.output import emit, emit_items, note, print_lines, print_table
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.files.engines import Engines
    from cbtfs.files.point import PointFiles
    from cbtfs.files.tree import GuestTree
    from cbtfs.listing import Point

group = typer.Typer(rich_markup_mode=None)

_MAX_DOCUMENT_BYTES: Final = 64 << 20
"""Largest file that `files cat --json` prints."""
Location = Annotated[
    str,
    typer.Argument(
        metavar="POINT:/PATH",
        show_default=False,
        help="A point as in other commands, and an absolute path in the guest: "
        "web01@-2d:/etc/hosts.",
    ),
]
VolumeName = Annotated[
    str | None,
    typer.Option(
        "--volume",
        metavar="V",
        show_default="all, placed as in the guest",
        help="Volume whose root is /: as 'show' names a slice, without slices/ and .raw, such as "
        "root.p1 or vg0/data; or the label of a disk without partitions.",
    ),
]


def add_to(app: typer.Typer) -> None:
    group.command(epilog=example("cbtfs files ls web01@latest:/etc"))(ls)
    group.command(epilog=example("cbtfs files stat web01@latest:/etc/hosts"))(stat)
    group.command(epilog=example("cbtfs files cat web01@2026-11-20T14:00:/etc/hosts"))(cat)
    group.command(
        epilog=example(
            "cbtfs files find web01@latest:/home '*.docx'",
            "cbtfs files find web01@latest:/ --print0 | xargs -0 -n 1 echo",
            "cbtfs files find --in 'web*' --since -30d '*.docx'",
        )
    )(find)
    group.command(
        epilog=example(
            "cbtfs files extract web01@-2d:/etc/hosts .",
            "cbtfs files extract web01@latest:/home/ann web01@latest:/home/bob /srv/restored",
            "cbtfs files extract web01@latest:/etc - | tar --extract --directory /srv/etc",
        )
    )(extract)
    group.command(epilog=example("cbtfs files diff web01@-2d web01@latest /etc"))(diff)
    group.command(epilog=example("cbtfs files index web01@latest", "cbtfs files index --due"))(
        index
    )
    group.command(epilog=example("cbtfs files log web01:/etc/hosts"))(log)
    app.add_typer(group, name="files")


@group.callback(epilog=example("cbtfs files cat web01@-2d:/etc/hosts"))
def _files() -> None:
    """List, read and extract files of the guest at a restore point.

    No root, no mount and no kernel of this machine is involved: a parser in a sandbox reads the
    file system. A journal is replayed in memory; a file system that is not consistent is refused,
    because it could lack files. A small VM reads file systems that the parser refuses, if
    libguestfs is installed; see --engine.
    """


@dataclass(frozen=True, slots=True)
class _Opened:
    """The files of a point, and a path."""

    point: Point
    files: PointFiles
    path: str
    notes: Sequence[str]
    """Facts about the placement of the volumes."""

    @property
    def tree(self) -> GuestTree:
        return self.files.tree

    def document(self) -> Document:
        """Return the members that all documents of `files` have."""
        from cbtfs.cli.report.documents import of_resolved
        from cbtfs.cli.report.guest_files import of_file_systems

        return {
            "point": self.point.manifest.point,
            **of_resolved(self.point),
            "file_systems": of_file_systems(self.tree),
            "notes": list(self.notes),
        }


def _split(location: str) -> tuple[str, str]:
    """Return point and path of an argument, which is split at the first ":/"."""
    point, separator, path = location.partition(":/")
    if not separator or not point:
        raise UsageError(f"{location!r} is not POINT:/PATH; e.g. web01@latest:/etc/hosts")
    return point, "/" + path


@contextmanager
def _open(
    context: typer.Context, location: str, volume: str | None, time_zone: str, engines: Engines
) -> Iterator[_Opened]:
    from cbtfs.cli.report.guest_files import note_file_systems
    from cbtfs.cli.report.names import find_and_say
    from cbtfs.files.point import open_files, unplaced
    from cbtfs.listing import current_clock
    from cbtfs.store.repository import reading

    spec, path = _split(location)
    clock = current_clock(time_zone)
    with reading(readable_path(context)) as repository:
        point = find_and_say(repository, spec, clock)
        with open_files(repository, point.manifest, volume, engines) as files:
            notes = unplaced(files.placement)
            yield _Opened(point, files, path, notes)
            for text in notes:
                note(text)
            note_file_systems(files.tree)


def ls(
    context: typer.Context,
    location: Location,
    volume: VolumeName = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """List a directory, or one file.

    A link is shown, and not followed, unless a slash is behind its name. Times are in UTC, owners
    are numbers: their names are in the guest.
    """
    from cbtfs.cli.report.guest_files import of_file, row

    chosen = engines(context, engine, luks_key_file)
    with _open(context, location, volume, time_zone, chosen) as opened:
        file = opened.tree.find(opened.path, follows=opened.path.endswith("/"))
        files = list(opened.tree.entries(file)) if file.is_directory else [file]
        if json:
            emit({**opened.document(), "path": file.path, "files": [of_file(f) for f in files]})
        else:
            header = ["mode", "owner", "group", "size", "modified", "name"]
            print_table(header, map(row, files), ["owner", "group", "size"])


def stat(
    context: typer.Context,
    location: Location,
    volume: VolumeName = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Show all facts of a file.

    These are type, mode, owner, size, times, the target of a link, and extended attributes, whose
    values are hexadecimal.
    """
    from cbtfs.cli.report.guest_files import of_file

    chosen = engines(context, engine, luks_key_file)
    with _open(context, location, volume, time_zone, chosen) as opened:
        file = opened.tree.find(opened.path)
        is_link = file.entry.kind.value == "link"
        facts = {
            **of_file(file),
            "target": file.target() if is_link else None,
            "attributes": {name: data.hex() for name, data in file.attributes().items()},
        }
        if json:
            emit({**opened.document(), "file": facts})
        else:
            attributes = facts.pop("attributes")
            print_lines(f"{name:<9} {value}" for name, value in facts.items() if value is not None)
            print_lines(f"attribute {name} {value}" for name, value in attributes.items())


def cat(
    context: typer.Context,
    location: Location,
    volume: VolumeName = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Print the content of a file.

    A link is followed within the guest. Nothing is printed for a file that is encrypted or damaged;
    a chunk that turns out to be damaged ends the output with exit code 20 or 21.
    """
    from cbtfs.files.content import write_content

    chosen = engines(context, engine, luks_key_file)
    with _open(context, location, volume, time_zone, chosen) as opened:
        file = opened.tree.find(opened.path, follows=True)
        if file.entry.kind.value != "file":
            raise UsageError(f"{file.path} is a {file.entry.kind.value}: name a file")
        if json:
            if file.entry.size > _MAX_DOCUMENT_BYTES:
                raise UsageError(
                    f"{file.path} has {file.entry.size} bytes: --json prints at most "
                    f"{_MAX_DOCUMENT_BYTES}; use files cat without it"
                )
            from cbtfs.cli.report.guest_files import content_of

            emit({**opened.document(), "path": file.path, "content": content_of(file)})
        else:
            sys.stdout.flush()
            write_content(file, sys.stdout.buffer.write)
            sys.stdout.flush()


def find(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POINT:/PATH [PATTERN]",
            show_default=False,
            help="A point and a directory in the guest, and a pattern of file names: '*.docx'. "
            "With --in, the pattern alone.",
        ),
    ] = None,
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--in",
            metavar="VM",
            show_default=False,
            help="Search the indexes of all points of a VM, or of the VMs that match a pattern "
            "such as 'web*'. Can be repeated.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            show_default="all points",
            help="With --in: search the points from this time on: -30d or 2026-11-20.",
        ),
    ] = None,
    print0: Annotated[
        bool,
        typer.Option("--print0", help="Print paths as they are, each with a zero byte behind it."),
    ] = False,
    volume: VolumeName = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Print the paths of files below a directory.

    PATTERN selects names, as in the shell. Directories that cannot be read are listed on standard
    error, and the exit code is then 3, 20 or 21.

    With --in, the indexes of many points are searched, which 'files index' makes: each version of a
    file is one line, with the first and the last point that has it. Points without an intact index
    are named, and the exit code is then 3. --engine searches only indexes that this engine has
    made.
    """
    from cbtfs.cli.report.guest_files import (
        matching,
        matching_paths,
        of_file,
        report_left_out,
    )
    from cbtfs.files.guest_folders import paths_below
    from cbtfs.files.walk import LeftOut, walk

    if json and print0:
        raise UsageError("--json and --print0 are mutually exclusive: give one")
    words = arguments or []
    if vms:
        if len(words) > 1 or print0 or volume is not None or luks_key_file:
            raise UsageError(
                "--in takes one PATTERN, and neither --print0 nor --volume nor --luks-key-file"
            )
        pattern = next(iter(words), None)
        search(context, vms, since, pattern, engine=engine, time_zone=time_zone, json=json)
        return
    if since is not None:
        raise UsageError("--since needs --in VM, whose points are searched")
    if not 1 <= len(words) <= 2:
        raise UsageError("find takes POINT:/PATH and at most one PATTERN, or --in VM and PATTERN")
    location, pattern = words[0], next(iter(words[1:]), None)
    left_out = LeftOut()
    chosen = engines(context, engine, luks_key_file)
    with _open(context, location, volume, time_zone, chosen) as opened:
        top = opened.tree.find(opened.path, follows=opened.path.endswith("/"))
        if json:
            emit_items(map(of_file, matching(walk(opened.tree, top, left_out), pattern)))
        else:
            paths = matching_paths(paths_below(opened.files, top, left_out), pattern)
            if print0:
                for path in paths:
                    sys.stdout.buffer.write(os.fsencode(path) + b"\0")
                sys.stdout.flush()
            else:
                print_lines(paths)
    report_left_out(left_out)


def extract(
    context: typer.Context,
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="POINT:/PATH… TARGET",
            show_default=False,
            help="Files or directories, and a directory that gets them, a new name, or - for a "
            "tar archive on standard output.",
        ),
    ],
    special: Annotated[
        bool,
        typer.Option(
            "--special",
            help="Also create device nodes, set-uid and set-gid bits and security attributes, as "
            "far as this user may.",
        ),
    ] = False,
    volume: VolumeName = None,
    engine: EngineName = AUTO,
    luks_key_file: KeyFiles = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Extract files and directories.

    Owners, modes, times, attributes, ACLs and holes are kept as far as this user may. No link is
    followed, no existing file is changed, and nothing outside of TARGET is written. A file gets its
    name when it is complete. Files that cannot be extracted are listed, and the exit code is then
    3, 20 or 21. A tar archive has everything that the guest has.
    """
    from cbtfs.cli.report.extractions import extract_all, note_totals, totals
    from cbtfs.cli.report.guest_files import of_left_out, report_left_out

    if len(arguments) < 2:
        raise UsageError("extract takes POINT:/PATH… and TARGET, which is a directory, a name or -")
    *locations, target = arguments
    if target == "-" and json:
        raise UsageError(
            "--json and TARGET - are mutually exclusive: standard output is a tar file"
        )
    if target != "-" and target.partition(":/")[1] and not Path(target).exists():
        raise UsageError(f"TARGET is missing behind {target}: name a directory, a new name or -")
    for location in locations:
        _split(location)
    chosen = engines(context, engine, luks_key_file)
    documents, result = extract_all(
        locations,
        target,
        lambda location: _open(context, location, volume, time_zone, chosen),
        is_special=special,
        is_quiet=json,
    )
    if json:
        emit({"extracted": documents, **totals(result), "left_out": of_left_out(result.left_out)})
    else:
        note_totals(result)
    report_left_out(result.left_out)
