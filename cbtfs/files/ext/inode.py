"""Inodes of ext2, ext3 and ext4.

Source: Linux, Documentation/filesystems/ext4/inodes.rst and fs/ext4/ext4.h.
"""

import stat
import struct
from dataclasses import dataclass
from typing import Final

from cbtfs.files.protocol import KIND_OF_MODE, Entry, Kind

USES_EXTENTS: Final = 0x80000
IS_INLINE: Final = 0x10000000
IS_ENCRYPTED: Final = 0x800
_IS_COMPRESSED: Final = 0x4
_BASE: Final = struct.Struct("<HHIiiiIHH4xI4x60s4xIII2xHHH4x")
_BASE_BYTES: Final = 128
_EXTRA: Final = struct.Struct("<2xIIIiI")
_MIN_EXTRA: Final = 24
"""Extra bytes up to the time of creation."""


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode. Times are nanoseconds since 1970."""

    number: int
    mode: int
    owner: int
    group: int
    size: int
    links: int
    flags: int
    map: bytes
    """60 bytes: extents, block numbers, the text of a link, or inline data."""
    attribute_block: int
    accessed: int
    changed: int
    modified: int
    created: int | None
    raw: bytes
    """All bytes, which may have attributes behind the fields."""
    extra: int
    """Bytes of fields behind the first 128."""

    @property
    def kind(self) -> Kind:
        return KIND_OF_MODE.get(stat.S_IFMT(self.mode), Kind.UNKNOWN)

    @property
    def is_encrypted(self) -> bool:
        return bool(self.flags & IS_ENCRYPTED)

    @property
    def defect(self) -> str | None:
        """The reason why the content cannot be read."""
        if self.kind is Kind.UNKNOWN:
            return f"damaged: inode {self.number} has no type"
        if self.is_encrypted:
            return "encrypted by the guest"
        if self.flags & _IS_COMPRESSED:
            return "compressed in an unknown format"
        return None

    @property
    def device(self) -> tuple[int, int] | None:
        """Major and minor number, as Linux encodes them in 16 or in 32 bits."""
        if self.kind not in (Kind.CHARACTER, Kind.BLOCK):
            return None
        old, new = struct.unpack_from("<II", self.map)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

    def entry(self, name: str) -> Entry:
        """Return the entry of a directory that names this inode."""
        return Entry(
            name,
            self.kind,
            self.number,
            stat.S_IMODE(self.mode),
            self.links,
            self.owner,
            self.group,
            self.size,
            self.accessed,
            self.modified,
            self.changed,
            self.created,
            self.device,
            self.defect,
        )


def parse_inode(number: int, data: bytes) -> Inode:
    """Return the inode with these bytes, which are at least 128."""
    mode, owner, size, accessed, changed, modified, _, group, links, *more = _BASE.unpack_from(data)
    flags, block_map, attributes, size_high, _, attributes_high, owner_high, group_high = more
    created: int | None = None
    extra = struct.unpack_from("<H", data, _BASE_BYTES)[0] if len(data) > _BASE_BYTES else 0
    if extra > len(data) - _BASE_BYTES:
        extra = 0
    changed_more = modified_more = accessed_more = 0
    if extra >= _MIN_EXTRA:
        changed_more, modified_more, accessed_more, born, born_more = _EXTRA.unpack_from(
            data, _BASE_BYTES + 2
        )
        created = _time(born, born_more)
    if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFDIR):
        size_high = 0
    return Inode(
        number,
        mode,
        owner | owner_high << 16,
        group | group_high << 16,
        size | size_high << 32,
        links,
        flags,
        block_map,
        attributes | attributes_high << 32,
        _time(accessed, accessed_more),
        _time(changed, changed_more),
        _time(modified, modified_more),
        created,
        data,
        extra,
    )


def _time(seconds: int, more: int) -> int:
    """Return nanoseconds: two bits of *more* extend the seconds, 30 are nanoseconds."""
    return (seconds + ((more & 3) << 32)) * 1_000_000_000 + (more >> 2)
