"""All directories of a file system in columns: many files at a low cost for each."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Protocol

from cbtfs.core.extent import Extent, coalesce
from cbtfs.errors import CbtfsError
from cbtfs.files.protocol import (
    FORMAT_OF_KIND,
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
    Kind,
)

MAX_FOLDER: Final = 4096
"""Files in one Folder; a larger directory comes in several."""
MAX_PATH: Final = 1 << 15
"""Longest path of a directory that is scanned."""
Row = tuple[int, int, int, int, int, int]
"""Mode, inode, owner, group, size and time of a file."""
_EARLIEST: Final = -(1 << 63)
_LATEST: Final = (1 << 63) - 1
_ERRORS: Final = (FileSystemDamaged, FileSystemUnsupported, GuestFileMissing)


@dataclass(slots=True)
class Folder:
    """Files in one directory, a column for each fact.

    `layouts` and `touched` are empty unless a scan has areas.
    """

    path: str
    names: list[str] = field(default_factory=list)
    modes: "array[int]" = field(default_factory=lambda: array("I"))
    """Types and permissions as in stat(); 0 for an entry whose inode cannot be read."""
    inodes: "array[int]" = field(default_factory=lambda: array("Q"))
    owners: "array[int]" = field(default_factory=lambda: array("I"))
    groups: "array[int]" = field(default_factory=lambda: array("I"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    modified: "array[int]" = field(default_factory=lambda: array("q"))
    """Nanoseconds since 1970; times beyond the years 1677 to 2262 are the nearest in range."""
    layouts: "array[int]" = field(default_factory=lambda: array("Q"))
    """Numbers that are equal if the contents are in the same places, or in the inode and equal."""
    touched: "array[int]" = field(default_factory=lambda: array("B"))
    """0 if no byte of the content is in an area or outside of the volume, else 1."""
    failure: CbtfsError | None = None
    """The reason why the directory cannot be read."""

    def add(self, names: Sequence[str], rows: Sequence[Row]) -> None:
        """Add files; *rows* has mode, inode, owner, group, size and time of each."""
        if not names:
            return
        modes, inodes, owners, groups, sizes, modified = zip(*rows, strict=True)
        self.names.extend(names)
        self.modes.extend(modes)
        self.inodes.extend(inodes)
        self.owners.extend(owners)
        self.groups.extend(groups)
        self.sizes.extend(sizes)
        if max(modified) > _LATEST or min(modified) < _EARLIEST:
            modified = tuple(map(clamped, modified))
        self.modified.extend(modified)


def clamped(nanoseconds: int) -> int:
    """Return the nearest time that a column can have."""
    return min(max(nanoseconds, _EARLIEST), _LATEST)


class Areas:
    """Byte ranges of a volume, for fast intersections."""

    def __init__(self, extents: Sequence[Extent], unit: int = 1) -> None:
        """*unit*: offsets and lengths of touches() are multiples of this size."""
        parts = list(
            coalesce(Extent(e.start // unit, -(-e.end // unit) - e.start // unit) for e in extents)
        )
        self._starts = [part.start for part in parts]
        self._ends = [part.end for part in parts]

    def touches(self, start: int, length: int) -> bool:
        """Return True if a byte of the range is in an area."""
        at = bisect_left(self._starts, start + length) - 1
        return at >= 0 and self._ends[at] > start


def layout_of(*parts: object) -> int:
    """Return a number for places of a content: unequal if the places are, but for accidents."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


class Listed(Protocol):
    """The methods of a file system that a scan without knowledge of its format needs."""

    def entries(self, path: str) -> Iterator[Entry]: ...
    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]: ...


def scan_by_entries(file_system: Listed, areas: Sequence[Extent] | None) -> Iterator[Folder]:
    """Yield all directories of a file system, listed one by one; see FileSystem.scan()."""
    inside = None if areas is None else Areas(areas)
    pending, known = ["/"], set[int]()
    while pending:
        path = pending.pop()
        folder = Folder(path)
        try:
            entries = sorted(file_system.entries(path), key=lambda entry: entry.name)
        except _ERRORS as exc:
            folder.failure = exc
            yield folder
            continue
        for entry in entries:
            if len(folder.names) == MAX_FOLDER:
                yield folder
                folder = Folder(path)
            inner = f"{path.rstrip('/')}/{entry.name}"
            _add(folder, entry)
            if inside is not None:
                layout, is_touched = _layout(file_system, inner, entry, inside)
                folder.layouts.append(layout)
                folder.touched.append(is_touched)
            if entry.kind is Kind.DIRECTORY:
                failure = refusal(inner, entry.inode, known)
                if failure is None:
                    pending.append(inner)
                else:
                    yield Folder(inner, failure=failure)
        yield folder


def refusal(path: str, inode: int, known: set[int]) -> CbtfsError | None:
    """Return why a directory is not scanned: it is its own parent, or too deep; add it to *known*.

    Inode 0 means that the number is unknown.
    """
    if len(path) > MAX_PATH:
        return FileSystemUnsupported(f"the path has more than {MAX_PATH} characters")
    if inode and inode in known:
        return FileSystemDamaged(f"directory inode {inode} is in two directories")
    known.add(inode)
    return None


def row_of(entry: Entry) -> Row:
    """Return the facts of an entry."""
    mode = FORMAT_OF_KIND.get(entry.kind, 0) | entry.mode
    return mode, entry.inode, entry.owner, entry.group, entry.size, entry.modified_ns


def _add(folder: Folder, entry: Entry) -> None:
    folder.add([entry.name], [row_of(entry)])


def _layout(file_system: Listed, path: str, entry: Entry, areas: Areas) -> tuple[int, bool]:
    if entry.kind is Kind.DIRECTORY:
        return 0, False
    if entry.kind is not Kind.FILE or entry.defect is not None:
        return 0, True
    try:
        extents = list(file_system.extents(path))
    except _ERRORS:
        return 0, True
    return layout_of(*extents), any(
        extent.offset is None or areas.touches(extent.offset, extent.length) for extent in extents
    )
