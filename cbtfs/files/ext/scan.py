"""Scan of all files of an ext file system: inodes are read in pieces of their tables."""

import stat
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.files.ext.inode import IS_INLINE, USES_EXTENTS, parse_inode
from cbtfs.files.ext.superblock import ROOT_INODE
from cbtfs.files.ext.volume import ExtVolume
from cbtfs.files.folder import MAX_FOLDER, Areas, Folder, Row, layout_of, refusal
from cbtfs.files.protocol import FileSystemDamaged, FileSystemUnsupported

_unpack: Final = struct.Struct("<HHI8xi4xH82xI8xHH4x").unpack_from
"""Mode, owner, size, time of the last change, group; high parts of size, owner and group."""
_unpack_more: Final = struct.Struct("<H6xI").unpack_from
_MAP: Final = struct.Struct("<32xI4x60s")
"""Flags and map."""
_NOWHERE: Final = (-1, -1)
_TYPE: Final = 0o170000
_WITH_HIGH_SIZE: Final = (stat.S_IFREG, stat.S_IFDIR)
_BASE_BYTES: Final = 128
_MIN_EXTRA: Final = 24
_PIECE: Final = 64 << 10
"""Bytes of an inode table that are read at once: a block of a repository."""
_PIECES: Final = 1 << 10
_SECOND: Final = 1_000_000_000
_HEADER: Final = struct.Struct("<HHHH4x")
_LEAF: Final = struct.Struct("<IHHI")
_MAGIC: Final = 0xF30A
_IN_MAP: Final = 4
"""Extents that an inode has itself."""
_MAX_WRITTEN: Final = 32768
_WITH_CONTENT: Final = (stat.S_IFREG, stat.S_IFLNK)
_SHORT_LINK: Final = 60


def scan(volume: ExtVolume, areas: Sequence[Extent] | None) -> Iterator[Folder]:
    """Yield all directories; see FileSystem.scan()."""
    yield from _Scan(volume, areas).folders()


class _Scan:
    def __init__(self, volume: ExtVolume, areas: Sequence[Extent] | None) -> None:
        self._volume = volume
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        superblock = volume.superblock
        self._inodes, self._per_group = superblock.inodes, superblock.inodes_per_group
        self._size = superblock.inode_size
        self._most_extra = self._size - _BASE_BYTES
        self._current, self._data = _NOWHERE, b""
        self._areas = None if areas is None else Areas(areas, volume.superblock.block_size)

    def folders(self) -> Iterator[Folder]:
        pending, known = [("/", ROOT_INODE)], {ROOT_INODE}
        while pending:
            path, number = pending.pop()
            folder = Folder(path)
            try:
                names = self._volume.names_in(self._volume.inode(number))
            except (FileSystemDamaged, FileSystemUnsupported) as exc:
                folder.failure = exc
                yield folder
                continue
            prefix = path.rstrip("/") + "/"
            for chunk in _chunks(sorted(names.items())):
                folder = Folder(path)
                rows = self._rows(number for _, number in chunk)
                folder.add([name for name, _ in chunk], rows)
                if self._areas is not None:
                    for row in rows:
                        layout, is_touched = self._layout(row, self._areas)
                        folder.layouts.append(layout)
                        folder.touched.append(is_touched)
                for (name, child), row in zip(chunk, rows, strict=True):
                    if row[0] & _TYPE == stat.S_IFDIR:
                        failure = refusal(prefix + name, child, known)
                        if failure is None:
                            pending.append((prefix + name, child))
                        else:
                            yield Folder(prefix + name, failure=failure)
                yield folder

    def _rows(self, numbers: Iterable[int]) -> list[Row]:
        rows = []
        for number in numbers:
            try:
                data, at = self._raw(number)
            except FileSystemDamaged:
                rows.append((0, number, 0, 0, 0, 0))
                continue
            mode, owner, size, modified, group, size_high, owner_high, group_high = _unpack(
                data, at
            )
            kind = mode & _TYPE
            if kind in _WITH_HIGH_SIZE:
                size |= size_high << 32
            elif kind not in _KINDS:
                mode &= 0o7777
            modified *= _SECOND
            if self._most_extra >= _MIN_EXTRA:
                extra, more = _unpack_more(data, at + _BASE_BYTES)
                if _MIN_EXTRA <= extra <= self._most_extra:
                    modified += ((more & 3) << 32) * _SECOND + (more >> 2)
            owner |= owner_high << 16
            rows.append((mode, number, owner, group | group_high << 16, size, modified))
        return rows

    def _raw(self, number: int) -> tuple[bytes, int]:
        """Return bytes that have an inode, and its offset in them."""
        if not 0 < number <= self._inodes:
            raise FileSystemDamaged(f"inode {number} does not exist")
        group, index = divmod(number - 1, self._per_group)
        at = index * self._size
        piece, at = at // _PIECE, at % _PIECE
        if self._current != (group, piece):
            self._current = group, piece
            self._data = self._piece(group, piece)
        if at + self._size > len(self._data):
            raise FileSystemDamaged(f"inode {number} is beyond the volume")
        return self._data, at

    def _piece(self, group: int, piece: int) -> bytes:
        """Return a piece of an inode table."""
        data = self._pieces.get((group, piece))
        if data is None:
            self._current = _NOWHERE  # In case of an error.
            length = min(_PIECE, self._per_group * self._size - piece * _PIECE)
            data = self._volume.table_bytes(group, piece * _PIECE, length)
            self._current = group, piece
            self._pieces[group, piece] = data
            if len(self._pieces) > _PIECES:
                self._pieces.popitem(last=False)
        return data

    def _layout(self, row: Row, areas: Areas) -> tuple[int, bool]:
        """Return the layout of a file, and whether its content is in an area or unknown."""
        mode, number, _, _, size, _ = row
        kind = mode & _TYPE
        if kind == stat.S_IFDIR or not kind:
            return 0, False
        data, at = self._raw(number)
        flags, block_map = _MAP.unpack_from(data, at)
        if kind not in _WITH_CONTENT or (kind == stat.S_IFLNK and size < _SHORT_LINK):
            # The map is the text of a link, or the number of a device.
            return _digest(block_map), bool(flags & IS_INLINE)
        if flags & IS_INLINE:
            return 0, True
        if flags & USES_EXTENTS:
            magic, count, _, depth = _HEADER.unpack_from(block_map)
            if magic == _MAGIC and depth == 0 and count <= _IN_MAP:
                return _digest(block_map), any(
                    length <= _MAX_WRITTEN and areas.touches(high << 32 | low, length)
                    for _, length, high, low in (
                        _LEAF.unpack_from(block_map, 12 + 12 * at) for at in range(count)
                    )
                )
        return self._mapped(number, size, areas)

    def _mapped(self, number: int, size: int, areas: Areas) -> tuple[int, bool]:
        data, at = self._raw(number)
        inode = parse_inode(number, data[at : at + self._size])
        blocks = -(-size // self._volume.superblock.block_size)
        try:
            found = list(self._volume.runs_of(inode, 0, blocks))
        except FileSystemDamaged:
            return 0, True
        return layout_of(*found), any(areas.touches(run.block, run.blocks) for run in found)


_KINDS: Final = frozenset(
    {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR}
    | {stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
)


def _chunks(items: list[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Yield the files of a directory in parts; an empty directory has one."""
    for start in range(0, max(len(items), 1), MAX_FOLDER):
        yield items[start : start + MAX_FOLDER]


def _digest(block_map: bytes) -> int:
    return int.from_bytes(blake2b(block_map, digest_size=7).digest(), "big")
