"""Directories of ext file systems. The blocks of a hash tree read as empty entries.

Source: Linux, Documentation/filesystems/ext4/directory.rst.
"""

import os
import struct
from collections.abc import Iterator
from typing import Final

from cbtfs.files.protocol import FileSystemDamaged

_HEADER: Final = struct.Struct("<IHBB")
_SELF: Final = (b".", b"..")
_WHOLE_64K: Final = (0, 65535)
"""Lengths that mean 64 KiB."""


def names(data: bytes, *, has_types: bool) -> Iterator[tuple[str, int]]:
    """Yield name and inode of each entry in a block, or in inline data.

    *has_types*: entries have a byte for the type, so a length of names is one byte.
    """
    found, inodes = list[bytes](), list[int]()
    at, end = 0, len(data)
    unpack, header = _HEADER.unpack_from, _HEADER.size
    while at + header <= end:
        inode, length, name_bytes, kind = unpack(data, at)
        if end == 1 << 16 and length in _WHOLE_64K:
            length = end
        elif end > 1 << 16 or length & 3:
            length = length & ~3 | (length & 3) << 16
        if not has_types:
            name_bytes |= kind << 8
        if length < header or at + length > end:
            raise FileSystemDamaged("a directory is damaged: an entry leaves its block")
        if inode:
            start = at + header
            name = data[start : start + name_bytes]
            if header + name_bytes > length or not name:
                raise FileSystemDamaged("a directory is damaged: a name leaves its entry")
            if name not in _SELF:
                found.append(name)
                inodes.append(inode)
        at += length
    if not found:
        return iter(())
    # No name has a slash, so all of them are decoded at once.
    joined = b"/".join(found)
    if b"\0" in joined or joined.count(b"/") != len(found) - 1:
        raise FileSystemDamaged("a directory is damaged: a name has a slash or a zero byte")
    return zip(os.fsdecode(joined).split("/"), inodes, strict=True)
