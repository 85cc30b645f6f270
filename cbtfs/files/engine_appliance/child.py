"""The process that owns the appliance: answers calls of its parent about the files in volumes.

It is a process of its own, because a library that talks to the kernel of a guest is in it, and
because the appliance can be ended at any time.
"""

import errno
import os
import re
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from cbtfs.files.engine_appliance.disks import Device, devices
from cbtfs.files.engine_appliance.library import Guestfs, GuestfsError, Stat
from cbtfs.files.engine_parse import frames
from cbtfs.files.protocol import (
    KIND_OF_MODE,
    Entry,
    FileExtent,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
    Kind,
)

_MISSING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL}
)
_REFUSED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOKEY, errno.ENOSYS, errno.EPERM})
_WITH_EXTENTS: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
_STAT_BLOCK: Final = 512
_BLOCK_SIZE: Final = re.compile(rb"blocks? of (\d+) bytes\)")
_EXTENT: Final = re.compile(rb" *\d+: *(\d+)\.\. *(\d+): *\d+\.\. *\d+: *\d+:(?: *\d+:)? *(\S*)")
_KEPT_DIRECTORIES: Final = 1 << 16
_INODE_BITS: Final = 56
_MAX_MESSAGE: Final = 300
_TOP_LEVEL: Final = "subvolid=5"


@dataclass(slots=True)
class _Mounted:
    """A file system in the appliance."""

    kind: str
    root: bytes
    """Its mount point there."""
    devices: dict[int, int]
    """Numbers of the devices that stat() has returned: btrfs has one for each subvolume."""
    directories: set[str]
    """Paths that are directories, and whose parents are."""


class _Server:
    """Answers the calls of the parent."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._library = Guestfs()
        self._devices: dict[str, Device] = {}
        self._mounted: dict[tuple[str, str | None], _Mounted] = {}
        self._last: tuple[str, str | None, str, Entry, int] | None = None

    def serve(self) -> None:
        """Answer calls until the parent closes the channel; then end the appliance."""
        try:
            while True:
                _, payload = frames.receive(self._channel)
                self._serve(frames.decode(payload))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._library.close()

    def _serve(self, call: dict[str, Any]) -> None:
        try:
            self._answer(call)
        except (GuestFileMissing, FileSystemDamaged, FileSystemUnsupported) as exc:
            self._fail(type(exc).__name__, str(exc))
        except GuestfsError as exc:
            text, path = _plain(exc), call.get("path", "")
            if exc.number in _MISSING:
                self._fail("GuestFileMissing", f"{path}: no such file")
            elif exc.number in _REFUSED:
                self._fail("FileSystemUnsupported", f"{path}: {text}")
            elif call["operation"] == "start" or not exc.number:
                self._fail("EngineFailed", text)
            else:
                self._fail("FileSystemDamaged", f"{path}: {text}")

    def _fail(self, name: str, message: str) -> None:
        frames.send(self._channel, frames.ERROR, frames.encode([name, message]))

    def _answer(self, call: dict[str, Any]) -> None:
        if call["operation"] == "start":
            self._value(self._start(call["disks"], call["keys"]))
            return
        volume, subvolume, path = call["volume"], call["subvolume"], call["path"]
        mounted = self._mount(volume, subvolume)
        match call["operation"]:
            case "open":
                self._value([mounted.kind])
            case "stat":
                self._value(frames.from_entry(self._entry(mounted, path)))
            case "entries":
                self._items(map(frames.from_entry, self._entries(mounted, path)))
            case "read":
                data = self._read(mounted, path, call["offset"], call["length"])
                frames.send(self._channel, frames.CONTENT, data)
            case "extents":
                found = self._extents(mounted, path, call["offset"])
                self._items(map(frames.from_extent, found))
            case "target":
                self._of_kind(mounted, path, Kind.LINK)
                self._value(os.fsdecode(self._library.text("readlink", _within(mounted, path))))
            case "attributes":
                self._entry(mounted, path)
                pairs = self._library.attributes(_within(mounted, path))
                self._value({os.fsdecode(name): data.hex() for name, data in pairs.items()})

    def _value(self, value: Any) -> None:
        frames.send(self._channel, frames.VALUE, frames.encode(value))

    def _items(self, items: Iterable[Any]) -> None:
        remaining = iter(items)
        while batch := list(islice(remaining, frames.ITEMS_PER_MESSAGE)):
            frames.send(self._channel, frames.ITEMS, frames.encode(batch))
        self._value(None)

    def _start(self, disks: list[list[str]], keys: list[str]) -> list[list[str]]:
        """Boot the appliance, and return its volumes: name, content, UUID and label."""
        for _, path in disks:
            self._library.add_disk(os.fsencode(path))
        self._library.do("launch")
        labels = [label for label, _ in disks]
        found = devices(self._library, labels, [key.encode() for key in keys])
        self._devices = {device.name: device for device in found}
        return [[d.name, d.kind, d.uuid, d.label] for d in found]

    def _mount(self, volume: str, subvolume: str | None) -> _Mounted:
        """Mount a volume at its first use, read-only: its journal is replayed in an overlay."""
        known = self._mounted.get((volume, subvolume))
        if known is not None:
            return known
        device = self._devices.get(volume)
        if device is None:
            raise FileSystemUnsupported("the appliance does not find this volume")
        if device.is_locked:
            raise FileSystemUnsupported(
                "it is encrypted (LUKS), and no key of --luks-key-file opens it"
            )
        root = f"/volume{len(self._mounted)}"
        options = "ro"
        if device.kind == "btrfs" and subvolume is not None:
            options += f",subvol={subvolume}" if subvolume else f",{_TOP_LEVEL}"
        with suppress(GuestfsError):  # It exists if an earlier mount failed.
            self._library.do("mkmountpoint", root.encode())
        arguments = (os.fsencode(options), device.path, root.encode())
        try:
            self._library.do("mount_options", *arguments)
        except GuestfsError as exc:
            kind = device.kind or "unknown content"
            raise FileSystemUnsupported(
                f"the kernel of the appliance does not mount it ({kind}): {_plain(exc)}"
            ) from exc
        mounted = _Mounted(device.kind, root.encode(), {}, {"/"})
        self._mounted[volume, subvolume] = mounted
        return mounted

    def _require_directories(self, mounted: _Mounted, path: str) -> None:
        """Raise GuestFileMissing if a component above *path* is not a directory, or is a link."""
        parent = path.rpartition("/")[0] or "/"
        if path == "/" or parent in mounted.directories:
            return
        self._require_directories(mounted, parent)
        if not stat.S_ISDIR(self._library.lstat(_within(mounted, parent)).mode):
            raise GuestFileMissing(f"{path}: {parent} is not a directory")
        if len(mounted.directories) < _KEPT_DIRECTORIES:
            mounted.directories.add(parent)

    def _facts(self, mounted: _Mounted, path: str) -> tuple[Entry, int]:
        """Return the entry of a path, and its blocks of 512 bytes."""
        key = mounted.root.decode()
        if self._last is not None and self._last[0] == key and self._last[2] == path:
            return self._last[3], self._last[4]
        self._require_directories(mounted, path)
        facts = self._library.lstat(_within(mounted, path))
        entry = _entry(mounted, path.rpartition("/")[2], facts)
        self._last = key, None, path, entry, facts.blocks
        return entry, facts.blocks

    def _entry(self, mounted: _Mounted, path: str) -> Entry:
        return self._facts(mounted, path)[0]

    def _of_kind(self, mounted: _Mounted, path: str, kind: Kind) -> tuple[Entry, int]:
        entry, blocks = self._facts(mounted, path)
        if entry.kind is not kind:
            raise GuestFileMissing(f"{path}: not a {kind.value}")
        return entry, blocks

    def _entries(self, mounted: _Mounted, path: str) -> Iterator[Entry]:
        self._of_kind(mounted, path, Kind.DIRECTORY)
        directory = _within(mounted, path)
        names = [name for name in self._library.names(directory) if name not in (b".", b"..")]
        for at in range(0, len(names), frames.ITEMS_PER_MESSAGE):
            batch = names[at : at + frames.ITEMS_PER_MESSAGE]
            facts = self._library.lstats(directory, batch)
            for name, found in zip(batch, facts, strict=True):
                yield _entry(mounted, os.fsdecode(name), found)

    def _read(self, mounted: _Mounted, path: str, offset: int, length: int) -> bytes:
        size = self._of_kind(mounted, path, Kind.FILE)[0].size
        data, end = bytearray(), min(offset + length, size)
        while offset + len(data) < end:
            at = offset + len(data)
            part = self._library.read(_within(mounted, path), end - at, at)
            if not part:
                raise FileSystemDamaged(f"{path}: its content ends early")
            data += part
        return bytes(data)

    def _extents(self, mounted: _Mounted, path: str, offset: int) -> Iterator[FileExtent]:
        entry, blocks = self._of_kind(mounted, path, Kind.FILE)
        parts: Iterable[tuple[int, int]] = [(0, entry.size)]
        if mounted.kind in _WITH_EXTENTS and blocks * _STAT_BLOCK < entry.size:
            # Without a map of its extents a file is one part, whose holes are read as zeros.
            with suppress(GuestfsError, ValueError):
                parts = self._mapped(_within(mounted, path))
        for start, end in parts:
            first, stop = max(start, offset), min(end, entry.size)
            if first < stop:
                yield FileExtent(first, stop - first, None)

    def _mapped(self, path: bytes) -> list[tuple[int, int]]:
        """Return start and end of the parts with data, by the system call FIEMAP."""
        quoted = b"'/sysroot" + path.replace(b"'", b"'\\''") + b"'"
        # The name of the file, which may have newlines, is not in the output.
        text = self._library.shell(b"filefrag -v /proc/self/fd/0 < " + quoted)
        size = _BLOCK_SIZE.search(text)
        if size is None:
            raise ValueError
        parts: list[tuple[int, int]] = []
        for line in text.splitlines():
            found = _EXTENT.match(line)
            if found and b"unwritten" not in found[3]:
                start, end = int(found[1]) * int(size[1]), (int(found[2]) + 1) * int(size[1])
                if parts and start < parts[-1][1]:
                    raise ValueError
                parts.append((start, end))
        return parts


def _within(mounted: _Mounted, path: str) -> bytes:
    return mounted.root + os.fsencode(path)


def _entry(mounted: _Mounted, name: str, facts: Stat) -> Entry:
    if facts.ino == -1:
        return Entry(name, Kind.UNKNOWN, 0, defect="damaged: its inode cannot be read")
    kind = KIND_OF_MODE.get(stat.S_IFMT(facts.mode))
    if kind is None:
        return Entry(name, Kind.UNKNOWN, 0, defect="damaged: its type is not possible")
    is_device = kind in (Kind.BLOCK, Kind.CHARACTER)
    number = mounted.devices.setdefault(facts.dev, len(mounted.devices)) & 0xFF
    return Entry(
        name,
        kind,
        facts.ino & ((1 << _INODE_BITS) - 1) | number << _INODE_BITS,
        stat.S_IMODE(facts.mode),
        facts.nlink,
        facts.uid,
        facts.gid,
        facts.size,
        _time(facts.atime_sec, facts.atime_nsec),
        _time(facts.mtime_sec, facts.mtime_nsec),
        _time(facts.ctime_sec, facts.ctime_nsec),
        device=(os.major(facts.rdev), os.minor(facts.rdev)) if is_device else None,
    )


def _time(seconds: int, nanoseconds: int) -> int:
    return seconds * 1_000_000_000 + nanoseconds


def _plain(exc: GuestfsError) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(exc).split())[:_MAX_MESSAGE]


def main(descriptor: int) -> None:
    """Serve the parent at the socket *descriptor*."""
    with socket.socket(fileno=descriptor) as channel:
        try:
            server = _Server(channel)
        except OSError:
            return
        server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
