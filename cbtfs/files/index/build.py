"""The index of a point, from a scan of its files."""

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Final
from zlib import crc32

from cbtfs import __version__
from cbtfs.core.file_index import (
    MAX_PART,
    IndexedVolume,
    IndexHeader,
    Part,
    Segment,
    encode_index,
)
from cbtfs.core.ids import PointId
from cbtfs.core.moment import format_moment
from cbtfs.errors import CbtfsError
from cbtfs.files.folder import Folder
from cbtfs.files.guest_folders import GuestFolder, guest_folders
from cbtfs.files.index.names import directory_item
from cbtfs.files.point import PointFiles
from cbtfs.files.walk import LeftOut
from cbtfs.store.codec import compressed

_LEAST: Final = 2048
_MOST: Final = 8192
"""Files of a segment."""
_CUT: Final = 32
"""Mean number of directories in a segment. Only the path of a directory decides whether a segment
ends after it, so equal directories of two points are mostly in equal segments."""
_MOST_TEXT: Final = MAX_PART // 64
_MAX_LEFT_OUT: Final = 1000
_MAX_REASON: Final = 300


def build_index(files: PointFiles, point: PointId) -> tuple[bytes, IndexHeader]:
    """Return the index of all files of a point, and its header.

    Volumes and directories that cannot be read are left out and named in the header.
    """
    left_out = LeftOut()
    folders = sorted(guest_folders(files, left_out), key=lambda folder: folder.path.split("/"))
    writer = _Writer()
    for path, parts in groupby(folders, key=lambda folder: folder.path):
        writer.add(path, _merged([*parts]))
    writer.finish()
    header = _header(point, _volumes(files), left_out.items, writer.segments)
    return encode_index(header, writer.parts), header


def empty_index(point: PointId, reason: CbtfsError) -> tuple[bytes, IndexHeader]:
    """Return the index of a point whose files cannot be read at all."""
    header = _header(point, (), [("/", reason)], [])
    return encode_index(header, []), header


def _header(
    point: PointId,
    volumes: tuple[IndexedVolume, ...],
    left_out: Sequence[tuple[str, CbtfsError]],
    segments: Sequence[Segment],
) -> IndexHeader:
    return IndexHeader(
        point,
        format_moment(datetime.now(UTC)),
        f"cbtfs {__version__}",
        volumes,
        tuple((path, str(reason)[:_MAX_REASON]) for path, reason in left_out[:_MAX_LEFT_OUT]),
        tuple(segments),
    )


def _volumes(files: PointFiles) -> tuple[IndexedVolume, ...]:
    opened = files.tree.opened
    return tuple(
        IndexedVolume(place, volume.name, opened[volume.name].kind, opened[volume.name].engine)
        for place, volume in sorted(files.places.items())
        if volume.name in opened
    )


def _merged(parts: Sequence[GuestFolder]) -> Folder:
    """Return the folder of a directory, which may come in several."""
    whole = parts[0].folder
    for part in parts[1:]:
        whole.names += part.folder.names
        whole.modes += part.folder.modes
        whole.inodes += part.folder.inodes
        whole.sizes += part.folder.sizes
        whole.modified += part.folder.modified
    return whole


@dataclass
class _Writer:
    """Collects files, and cuts them into segments."""

    segments: list[Segment] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    _items: list[str] = field(default_factory=list)
    _columns: "tuple[array[int], ...]" = ()
    _files: int = 0
    _text: int = 0
    _path: str = ""

    def add(self, path: str, folder: Folder) -> None:
        """Add a directory, in the order of the paths."""
        if not folder.names:
            return
        for start, end in _cuts(folder.names):
            self._append(path, folder, start, end)
            is_whole = end == len(folder.names)
            if self._files >= _MOST or self._text >= _MOST_TEXT or not is_whole:
                self.finish()
        if self._files >= _LEAST and crc32(path.encode("utf-8", "surrogateescape")) % _CUT == 0:
            self.finish()

    def _append(self, path: str, folder: Folder, start: int, end: int) -> None:
        if not self._files:
            self._path = ""
            self._columns = tuple(map(array, "HQQq"))
        item = directory_item(path, self._path)
        names = folder.names[start:end] if end - start < len(folder.names) else folder.names
        text = "\0".join(names)
        self._items += (item, text)
        self._path = path
        self._text += len(text) + len(item)
        self._files += len(names)
        sources = folder.modes, folder.inodes, folder.sizes, folder.modified
        for column, values in zip(self._columns, sources, strict=True):
            part = values[start:end]
            column.extend(array("H", part) if column.typecode == "H" else part)

    def finish(self) -> None:
        """End the segment."""
        if not self._files:
            return
        text = "\0".join(self._items).encode("utf-8", "surrogateescape")
        facts = b"".join(map(_little_endian, self._columns))
        packed = compressed(text), compressed(facts)
        names, columns = Part.of(packed[0], len(text)), Part.of(packed[1], len(facts))
        self.segments.append(Segment(self._files, names, columns))
        self.parts += packed
        self._items, self._files, self._text = [], 0, 0


def _cuts(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the parts of a directory, which is cut if it is large; cuts depend on the names."""
    start = 0
    if len(names) > _MOST:
        for at, name in enumerate(names):
            is_cut = at - start >= _LEAST and crc32(name.encode("utf-8", "replace")) % _LEAST == 0
            if is_cut or at - start >= _MOST:
                yield start, at
                start = at
    yield start, len(names)


def _little_endian(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
