"""Files of guests in tables and documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from cbtfs.cli.report.exit_status import most_severe
from cbtfs.cli.report.output import note, say
from cbtfs.errors import ChunkMissing, DataCorrupt, ExitCode

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.files.protocol import Entry
    from cbtfs.files.tree import File, GuestTree
    from cbtfs.files.walk import LeftOut

_LETTERS: Final = {
    "file": "-",
    "directory": "d",
    "link": "l",
    "character-device": "c",
    "block-device": "b",
    "fifo": "p",
    "socket": "s",
    "unknown": "?",
}
_SPECIAL_BITS: Final = ((0o4000, 2, "sS"), (0o2000, 5, "sS"), (0o1000, 8, "tT"))
_NANOSECONDS: Final = 1_000_000_000


def format_mode(entry: Entry) -> str:
    """Return type and permissions as `ls -l` prints them."""
    letters = ["rwx"[at % 3] if entry.mode >> (8 - at) & 1 else "-" for at in range(9)]
    for bit, at, (executable, other) in _SPECIAL_BITS:
        if entry.mode & bit:
            letters[at] = executable if letters[at] == "x" else other
    return _LETTERS[entry.kind.value] + "".join(letters)


def format_time(nanoseconds: int | None) -> str | None:
    """Return a time as RFC 3339 in UTC; None for one that no calendar has."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%4Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return None
    return f"{text}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def row(file: File) -> list[str]:
    """Return the cells of a line of `files ls`."""
    entry = file.entry
    size = str(entry.size) if entry.device is None else ", ".join(map(str, entry.device))
    time = format_time(entry.modified_ns // _NANOSECONDS * _NANOSECONDS) or "?"
    return [format_mode(entry), str(entry.owner), str(entry.group), size, time, shown_name(file)]


def shown_name(file: File) -> str:
    """Return a name, with the target of a link or the reason why the file is not readable."""
    from cbtfs.errors import CbtfsError

    entry = file.entry
    name = entry.name or "/"
    if entry.defect is not None:
        return f"{name} ({entry.defect})"
    if entry.kind.value == "link":
        try:
            return f"{name} -> {file.target()}"
        except CbtfsError as exc:
            return f"{name} ({exc})"
    return name


def of_file(file: File) -> Document:
    """Return the document of a file."""
    entry = file.entry
    return {
        "path": file.path,
        "type": entry.kind.value,
        "mode": f"{entry.mode:04o}",
        "owner": entry.owner,
        "group": entry.group,
        "size": entry.size,
        "links": entry.links,
        "inode": entry.inode,
        "volume": file.volume.name,
        "engine": file.file_system.engine,
        "modified": format_time(entry.modified_ns),
        "changed": format_time(entry.changed_ns),
        "accessed": format_time(entry.accessed_ns),
        "created": format_time(entry.created_ns),
        "device": None if entry.device is None else ":".join(map(str, entry.device)),
        "defect": entry.defect,
    }


def of_file_systems(tree: GuestTree) -> list[Document]:
    """Return the member `file_systems`: those that were read, each with its engine."""
    return [
        {"volume": name, "kind": fs.kind, "engine": fs.engine, "notes": list(fs.notes)}
        for name, fs in tree.opened.items()
    ]


def note_file_systems(*trees: GuestTree) -> None:
    """Report which file systems were read, by which engine; equal facts of several trees once."""
    lines = [
        "; ".join([f"volume {name}: {fs.kind}, engine {fs.engine}", *fs.notes])
        for tree in trees
        for name, fs in tree.opened.items()
    ]
    for line in dict.fromkeys(lines):
        note(line)


def of_left_out(left_out: LeftOut) -> list[Document]:
    """Return the member `left_out`."""
    return [{"path": path, "reason": str(reason)} for path, reason in left_out.items]


def report_left_out(left_out: LeftOut) -> None:
    """List the files that were left out and exit with 3, 20 or 21, if there are any."""
    for path, reason in left_out.items:
        say(f"left out: {path}: {reason}")
    if left_out.items:
        errors = [reason for _, reason in left_out.items]
        is_damage = any(isinstance(error, ChunkMissing | DataCorrupt) for error in errors)
        raise typer.Exit(most_severe(errors) if is_damage else ExitCode.PARTIAL)


def matching(files: Iterable[File], pattern: str | None) -> Iterator[File]:
    """Yield the files whose name matches a shell pattern; all if it is None."""
    from fnmatch import fnmatchcase

    for file in files:
        if pattern is None or fnmatchcase(file.entry.name, pattern):
            yield file


def matching_paths(paths: Iterable[str], pattern: str | None) -> Iterator[str]:
    """Yield the paths whose last part matches a shell pattern; all if it is None."""
    from fnmatch import translate
    from re import compile as compiled

    if pattern is None:
        yield from paths
        return
    matches = compiled(translate(pattern)).match
    for path in paths:
        if matches(path.rpartition("/")[2]):
            yield path


def content_of(file: File) -> str:
    """Return the content of a file in Base64."""
    from base64 import b64encode

    from cbtfs.files.content import write_content

    parts: list[bytes] = []
    write_content(file, lambda data: parts.append(bytes(data)))
    return b64encode(b"".join(parts)).decode()
