"""Scan of all files of an ext file system: inodes are read in pieces of their tables."""

import stat
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from cbtfs.core.extent import Extent
from cbtfs.files.ext.inode import IS_INLINE, USES_EXTENTS, parse_inode
from cbtfs.files.ext.superblock import ROOT_INODE
from cbtfs.files.ext.volume import ExtVolume
from cbtfs.files.folder import MAX_FOLDER, Areas, Folder, layout_of, refusal
from cbtfs.files.protocol import FileSystemDamaged, FileSystemUnsupported

_FIELDS: Final = struct.Struct("<HHI8xi4xH6xI4x60s8xI8xHH4x")
_MORE: Final = struct.Struct("<H6xI")
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


class _Facts(NamedTuple):
    """The fields of an inode that a scan needs."""

    mode: int
    owner: int
    group: int
    size: int
    modified: int
    flags: int
    map: bytes


def scan(volume: ExtVolume, areas: Sequence[Extent] | None) -> Iterator[Folder]:
    """Yield all directories; see FileSystem.scan()."""
    yield from _Scan(volume, areas).folders()


class _Scan:
    def __init__(self, volume: ExtVolume, areas: Sequence[Extent] | None) -> None:
        self._volume = volume
        self._superblock = volume.superblock
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
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
            for name, child in sorted(names.items()):
                if len(folder.names) == MAX_FOLDER:
                    yield folder
                    folder = Folder(path)
                if stat.S_ISDIR(self._add(folder, name, child)):
                    failure = refusal(prefix + name, child, known)
                    if failure is None:
                        pending.append((prefix + name, child))
                    else:
                        yield Folder(prefix + name, failure=failure)
            yield folder

    def _add(self, folder: Folder, name: str, number: int) -> int:
        """Add a file; return its mode."""
        try:
            facts = self._facts(number)
        except FileSystemDamaged:
            facts = _Facts(0, 0, 0, 0, 0, 0, b"")
        folder.add(name, facts.mode, (number, facts.owner, facts.group, facts.size, facts.modified))
        if self._areas is not None:
            layout, is_touched = self._layout(number, facts, self._areas)
            folder.layouts.append(layout)
            folder.touched.append(is_touched)
        return facts.mode

    def _facts(self, number: int) -> _Facts:
        data, at = self._raw(number)
        fields = _FIELDS.unpack_from(data, at)
        mode, owner, size, modified, group, flags, block_map, size_high, owner_high, group_high = (
            fields
        )
        kind = mode & 0o170000
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            size |= size_high << 32
        modified *= _SECOND
        if self._superblock.inode_size >= _BASE_BYTES + _MIN_EXTRA:
            extra, more = _MORE.unpack_from(data, at + _BASE_BYTES)
            if _MIN_EXTRA <= extra <= self._superblock.inode_size - _BASE_BYTES:
                modified += ((more & 3) << 32) * _SECOND + (more >> 2)
        if kind not in _KINDS:
            mode &= 0o7777
        return _Facts(
            mode,
            owner | owner_high << 16,
            group | group_high << 16,
            size,
            modified,
            flags,
            block_map,
        )

    def _raw(self, number: int) -> tuple[bytes, int]:
        """Return bytes that have an inode, and its offset in them."""
        superblock = self._superblock
        if not 0 < number <= superblock.inodes:
            raise FileSystemDamaged(f"inode {number} does not exist")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        size = superblock.inode_size
        piece, at = divmod(index * size, _PIECE)
        data = self._pieces.get((group, piece))
        if data is None:
            length = min(_PIECE, superblock.inodes_per_group * size - piece * _PIECE)
            data = self._volume.table_bytes(group, piece * _PIECE, length)
            self._pieces[group, piece] = data
            if len(self._pieces) > _PIECES:
                self._pieces.popitem(last=False)
        if at + size > len(data):
            raise FileSystemDamaged(f"inode {number} is beyond the volume")
        return data, at

    def _layout(self, number: int, facts: _Facts, areas: Areas) -> tuple[int, bool]:
        """Return the layout of a file, and whether its content is in an area or unknown."""
        kind = facts.mode & 0o170000
        if kind == stat.S_IFDIR:
            return 0, False
        if kind not in _WITH_CONTENT or (kind == stat.S_IFLNK and facts.size < _SHORT_LINK):
            # The map is the text of a link, or the number of a device.
            return _digest(facts), bool(facts.flags & IS_INLINE)
        if facts.flags & IS_INLINE:
            return 0, True
        if facts.flags & USES_EXTENTS:
            magic, count, _, depth = _HEADER.unpack_from(facts.map)
            if magic == _MAGIC and depth == 0 and count <= _IN_MAP:
                return _digest(facts), any(
                    length <= _MAX_WRITTEN and areas.touches(high << 32 | low, length)
                    for _, length, high, low in (
                        _LEAF.unpack_from(facts.map, 12 + 12 * at) for at in range(count)
                    )
                )
        return self._mapped(number, facts, areas)

    def _mapped(self, number: int, facts: _Facts, areas: Areas) -> tuple[int, bool]:
        data, at = self._raw(number)
        inode = parse_inode(number, data[at : at + self._superblock.inode_size])
        blocks = -(-facts.size // self._superblock.block_size)
        try:
            found = list(self._volume.runs_of(inode, 0, blocks))
        except FileSystemDamaged:
            return 0, True
        return layout_of(*found), any(areas.touches(run.block, run.blocks) for run in found)


_KINDS: Final = frozenset(
    {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR}
    | {stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
)


def _digest(facts: _Facts) -> int:
    return int.from_bytes(blake2b(facts.map, digest_size=7).digest(), "big")
