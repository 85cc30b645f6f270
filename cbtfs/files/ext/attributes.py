"""Extended attributes of ext inodes.

Source: Linux, Documentation/filesystems/ext4/attributes.rst and fs/ext4/acl.h.
"""

import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from cbtfs.files.protocol import FileSystemDamaged

MAGIC: Final = 0xEA020000
_BLOCK_HEADER_BYTES: Final = 32
_ENTRY: Final = struct.Struct("<BBHIII")
_PREFIXES: Final = {
    0: "",
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
    9: "encryption.",
    10: "gnu.",
}
_ACLS: Final = (2, 3)
INLINE_DATA: Final = "system.data"
"""Name of the attribute that holds inline data behind the first 60 bytes."""
_MAX_VALUE: Final = 1 << 20
_ACL_VERSION: Final = 1
_CALL_VERSION: Final = 2
_NO_ID: Final = 0xFFFFFFFF
_WITH_ID: Final = (0x02, 0x08)
"""ACL_USER and ACL_GROUP."""
_IDLESS: Final = (0x01, 0x04, 0x10, 0x20)


class Attribute(NamedTuple):
    """An attribute whose value is in the same area, or in an inode."""

    name: str
    value: bytes
    inode: int
    """Inode that holds the value; 0 if *value* does."""
    size: int


def in_inode(data: bytes, start: int) -> Iterator[Attribute]:
    """Yield the attributes behind the fields of an inode, which end at *start*."""
    if start + 4 > len(data) or struct.unpack_from("<I", data, start)[0] != MAGIC:
        return
    yield from _parse(data, start + 4, start + 4)


def in_block(data: bytes) -> Iterator[Attribute]:
    """Yield the attributes of an attribute block."""
    if struct.unpack_from("<I", data)[0] != MAGIC:
        raise FileSystemDamaged("a block of attributes is damaged")
    yield from _parse(data, _BLOCK_HEADER_BYTES, 0)


def _parse(data: bytes, at: int, base: int) -> Iterator[Attribute]:
    """Yield the attributes of a list that starts at *at*; values are relative to *base*."""
    while at + 4 <= len(data) and data[at : at + 4] != bytes(4):
        if at + _ENTRY.size > len(data):
            raise FileSystemDamaged("a list of attributes is damaged")
        name_bytes, index, offset, inode, size, _ = _ENTRY.unpack_from(data, at)
        name_at = at + _ENTRY.size
        start = base + offset
        is_inside = inode or start + size <= len(data)
        if name_at + name_bytes > len(data) or size > _MAX_VALUE or not is_inside:
            raise FileSystemDamaged("a list of attributes is damaged")
        prefix = _PREFIXES.get(index, f"unknown-{index}.")
        name = prefix + os.fsdecode(data[name_at : name_at + name_bytes])
        value = b"" if inode else data[start : start + size]
        if index in _ACLS:
            value = _acl(value)
        yield Attribute(name, value, inode, size)
        at = name_at + -(-name_bytes // 4) * 4


def _acl(value: bytes) -> bytes:
    """Return an ACL as setxattr() takes it."""
    if len(value) < 4 or struct.unpack_from("<I", value)[0] != _ACL_VERSION:
        raise FileSystemDamaged("an ACL is damaged")
    encoded, at = [struct.pack("<I", _CALL_VERSION)], 4
    while at < len(value):
        if at + 4 > len(value):
            raise FileSystemDamaged("an ACL is damaged")
        tag, permissions = struct.unpack_from("<HH", value, at)
        at += 4
        identity = _NO_ID
        if tag in _WITH_ID and at + 4 <= len(value):
            (identity,) = struct.unpack_from("<I", value, at)
            at += 4
        elif tag not in _IDLESS:
            raise FileSystemDamaged("an ACL is damaged")
        encoded.append(struct.pack("<HHI", tag, permissions, identity))
    return b"".join(encoded)
