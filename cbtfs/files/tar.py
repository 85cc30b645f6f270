"""A tar archive of files of a guest, on a stream: all attributes, devices and holes.

The format is that of POSIX.1-2001 (pax). Holes are stored as GNU tar's sparse format 1.0, extended
attributes as `SCHILY.xattr.*`, as GNU tar, bsdtar and star do.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from cbtfs.errors import CbtfsError
from cbtfs.files.extract import Extracted, Ignored
from cbtfs.files.protocol import Kind
from cbtfs.files.tree import File, GuestTree
from cbtfs.files.walk import walk

_TYPES: Final = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.LINK: tarfile.SYMTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}
_ACLS: Final = {
    "system.posix_acl_access": "SCHILY.acl.access",
    "system.posix_acl_default": "SCHILY.acl.default",
}
_ACL_TAGS: Final = {1: "user:", 2: "user:", 4: "group:", 8: "group:", 16: "mask:", 32: "other:"}
_ACL_ENTRY_BYTES: Final = 8
_ZEROS: Final = bytes(1 << 16)
_MAX_PARTS: Final = 1 << 16
"""Parts of a sparse file; one with more is stored with its zeros."""


class Stream(Protocol):
    """The destination of an archive."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(slots=True)
class Archive:
    """Writes files to a tar archive."""

    tree: GuestTree
    stream: Stream
    advance: Callable[[int], None] = lambda count: None
    result: Extracted = field(default_factory=Extracted)
    _links: dict[tuple[str, int], str] = field(default_factory=dict)

    def add(self, top: File, name: str) -> None:
        """Add a file, or a directory with all its files, under *name*."""
        for file in walk(self.tree, top, self.result.left_out):
            member = name + file.path[len(top.path.rstrip("/")) :] if file is not top else name
            try:
                self._member(file, member)
            except CbtfsError as exc:
                self.result.left_out.add(file.path, exc)

    def finish(self) -> None:
        """Write the end of the archive."""
        self.stream.write(bytes(2 * tarfile.BLOCKSIZE))

    def _member(self, file: File, name: str) -> None:
        entry = file.entry
        if entry.defect is not None:
            raise Ignored(entry.defect)
        if entry.kind not in _TYPES:
            raise Ignored("a socket, which tar archives do not have")
        info = tarfile.TarInfo(name)
        info.type = _TYPES[entry.kind]
        info.mode, info.uid, info.gid = entry.mode, entry.owner, entry.group
        info.pax_headers = {"mtime": _seconds(entry.modified_ns), **_extended(file)}
        key = file.volume.name, entry.inode
        if entry.kind is Kind.LINK:
            info.linkname = file.target()
        elif entry.device is not None:
            info.devmajor, info.devminor = entry.device
        elif entry.links > 1 and key in self._links:
            info.type, info.linkname = tarfile.LNKTYPE, self._links[key]
            self.advance(entry.size if entry.kind is Kind.FILE else 0)
        elif entry.kind is Kind.FILE:
            self._file(file, info)
            if entry.links > 1:
                self._links[key] = name
            return
        self._header(info)
        if entry.kind is Kind.DIRECTORY:
            self.result.directories += 1
        else:
            self.result.files += 1

    def _header(self, info: tarfile.TarInfo) -> None:
        self.stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _file(self, file: File, info: tarfile.TarInfo) -> None:
        """Write a regular file. One that cannot be read to its end is completed with zeros."""
        parts = _parts(file)
        info.size = file.entry.size
        sparse = b""
        if sum(length for _, length in parts) < info.size and len(parts) <= _MAX_PARTS:
            sparse = _sparse_map(parts, info)
        self._header(info)
        self.stream.write(sparse)
        written, holes = len(sparse), file.entry.size
        try:
            for offset, data in file.parts():
                if not sparse:
                    written += self._zeros(offset - written)
                self.stream.write(data)
                self.advance(len(data))
                written += len(data)
                holes -= len(data)
        finally:
            written += self._zeros(info.size - written)
            self._zeros(-written % tarfile.BLOCKSIZE)
        self.advance(max(holes, 0))
        self.result.files += 1
        self.result.bytes += file.entry.size

    def _zeros(self, count: int) -> int:
        for at in range(0, count, len(_ZEROS)):
            self.stream.write(_ZEROS[: count - at])
        return max(count, 0)


def _parts(file: File) -> list[tuple[int, int]]:
    """Return start and length of the parts that are not holes, adjacent ones joined."""
    parts: list[tuple[int, int]] = []
    for extent in file.extents():
        if parts and sum(parts[-1]) == extent.start:
            parts[-1] = parts[-1][0], parts[-1][1] + extent.length
        else:
            parts.append((extent.start, extent.length))
    return parts


def _sparse_map(parts: list[tuple[int, int]], info: tarfile.TarInfo) -> bytes:
    """Make *info* that of a sparse file. Return the map that precedes the data."""
    if not parts or sum(parts[-1]) < info.size:
        parts = [*parts, (info.size, 0)]
    numbers = [len(parts), *(number for part in parts for number in part)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    text += bytes(-len(text) % tarfile.BLOCKSIZE)
    info.pax_headers = {
        **info.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(info.size),
    }
    folder, _, name = info.name.rpartition("/")
    info.name = f"{folder or '.'}/GNUSparseFile.0/{name}"
    info.size = len(text) + sum(length for _, length in parts)
    return text


def _extended(file: File) -> dict[str, str]:
    """Return the pax headers of extended attributes."""
    headers = {}
    for name, value in file.attributes().items():
        if name in _ACLS:
            headers[_ACLS[name]] = ",".join(_acl(value))
        else:
            headers[f"SCHILY.xattr.{name}"] = os.fsdecode(value)
    return headers


def _acl(value: bytes) -> Iterator[str]:
    """Yield the entries of an ACL as text with numbers."""
    for at in range(4, len(value) - _ACL_ENTRY_BYTES + 1, _ACL_ENTRY_BYTES):
        tag = int.from_bytes(value[at : at + 2], "little")
        bits = int.from_bytes(value[at + 2 : at + 4], "little")
        identity = int.from_bytes(value[at + 4 : at + 8], "little")
        who = str(identity) if tag in (2, 8) else ""
        letters = "".join(c if bits & bit else "-" for c, bit in (("r", 4), ("w", 2), ("x", 1)))
        yield f"{_ACL_TAGS.get(tag, 'unknown:')}{who}:{letters}"


def _seconds(nanoseconds: int) -> str:
    """Return a time in seconds as a decimal number without an error of rounding."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    if not rest:
        return str(seconds)
    if seconds < 0:
        seconds, rest = seconds + 1, 1_000_000_000 - rest
        return f"{'-' if seconds == 0 else ''}{seconds}.{rest:09d}".rstrip("0")
    return f"{seconds}.{rest:09d}".rstrip("0")
