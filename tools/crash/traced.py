"""Replay of a recording on the model of storage: the effect of each call on its file."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from cbtfs.store.catalog.environment import LOCK
from tools.crash.child import Message
from tools.crash.recording import NEVER, RecordedCall
from tools.crash.storage import Inode, Storage

_NOT_MODELLED: Final = {
    *(
        "open",
        "openat2",
        "creat",
        "copy_file_range",
        "msync",
        "sync",
        "syncfs",
        "pwritev",
        "pwritev2",
    ),
    *("symlink", "symlinkat", "mknod", "mknodat", "io_uring_setup", "io_submit"),
}
"""Calls that cbtfs does not make and the model does not cover."""


_HERE: Final = "AT_FDCWD"
_BY_DESCRIPTOR: Final = "/proc/self/fd/"
"""Prefix of paths below an open directory (cbtfs/store/folder.py)."""


class NotModelled(Exception):
    """Raised when the recording has a call that the model does not cover."""


@dataclass(slots=True)
class _OpenFile:
    """An open file of the repository."""

    inode: Inode
    is_lasting: bool
    offset: int = 0


class SentMessage(NamedTuple):
    """A message of the program to its parent, with its moment."""

    begun: int
    message: Message


@dataclass(slots=True)
class Trace:
    """Effects of a recorded program below *root*, applied to *storage*."""

    root: Path
    storage: Storage
    moments: set[int] = field(default_factory=set)
    """Line numbers of the recording before and after each change."""
    sent: list[SentMessage] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Number of calls that changed or flushed a file, by name."""
    _files: dict[int, _OpenFile] = field(default_factory=dict)

    def play(self, calls: Sequence[RecordedCall]) -> None:
        """Apply all calls.

        Calls that change content use the descriptors at their begin; calls that change names or
        descriptors take effect at their end.
        """
        steps = [(call.begun, False, call) for call in calls]
        steps += [(call.ended, True, call) for call in calls if call.ended != NEVER]
        for _, is_end, call in sorted(steps, key=lambda step: step[:2]):
            if not call.is_own:
                self._refuse_writes_of_children(call)
            elif (act := (_AT_END if is_end else _AT_BEGIN).get(call.name)) is not None:
                act(self, call)
            elif call.name in _NOT_MODELLED:
                raise NotModelled(f"{call.name}({call.text[:80]})")

    def _refuse_writes_of_children(self, call: RecordedCall) -> None:
        """Raise NotModelled if a child of the program opens a file for writing."""
        if call.name == "openat" and not self._is_reading(call):
            path = self._path(call.strings[0])
            if path is not None:
                raise NotModelled(f"a child process writes to {path}")

    @staticmethod
    def _is_reading(call: RecordedCall) -> bool:
        return "O_RDONLY" in call.text and "O_CREAT" not in call.text

    def _changed(self, call: RecordedCall) -> None:
        self.moments |= {call.begun, call.begun + 1}
        if call.ended != NEVER:
            self.moments |= {call.ended, call.ended + 1}
        self.counts[call.name] = self.counts.get(call.name, 0) + 1

    # Names

    def _path(self, name: bytes) -> tuple[str, ...] | None:
        """Return the parts of an absolute path below the root; None for any other path."""
        path = os.path.normpath(os.fsdecode(name))
        if not path.startswith(str(self.root)):
            return None
        rest = path[len(str(self.root)) :]
        return None if rest and rest[0] != "/" else tuple(part for part in rest.split("/") if part)

    def _entry(self, name: bytes, folder: str = _HERE) -> tuple[Inode, str] | None:
        """Return the folder and the last part of a name; None if it is outside the repository."""
        if folder != _HERE and not name.startswith(b"/"):
            opened = self._files.get(int(folder))
            return None if opened is None else (opened.inode, os.fsdecode(name))
        base, parts = self._base(name)
        if base is None:
            return None
        for part in parts[:-1]:
            base = base.entries[part]
        return base, parts[-1] if parts else ""

    def _base(self, name: bytes) -> tuple[Inode | None, tuple[str, ...]]:
        """Return the root or open directory that an absolute path starts at, and the rest."""
        path = os.fsdecode(name)
        if not path.startswith(_BY_DESCRIPTOR):
            parts = self._path(name)
            return (None, ()) if parts is None else (self.storage.root, parts)
        number, _, rest = path.removeprefix(_BY_DESCRIPTOR).partition("/")
        opened = self._files.get(int(number))
        parts = tuple(part for part in rest.split("/") if part)
        return None if opened is None else opened.inode, parts

    def _inode(self, entry: tuple[Inode, str]) -> Inode | None:
        folder, name = entry
        return folder.entries.get(name) if name else folder

    def _openat(self, call: RecordedCall) -> None:
        folder, _, flags, *_ = call.arguments
        entry = self._entry(call.strings[0], folder)
        if entry is None:
            return
        inode = self._inode(entry)
        if "O_TMPFILE" in flags:
            inode = Inode(is_folder=False)
        elif inode is None:
            inode = Inode(is_folder=False)
            self._rebind(call, (*entry, inode))
        elif "O_TRUNC" in flags and inode.size:
            inode.resize(call.begun, call.ended, 0)
            self._changed(call)
        if "O_APPEND" in flags:
            raise NotModelled("O_APPEND")
        self._files[call.result] = _OpenFile(inode, "SYNC" in flags)

    def _rebind(self, call: RecordedCall, *names: tuple[Inode, str, Inode | None]) -> None:
        self.storage.rebind(call.begun, call.ended, *names)
        self._changed(call)

    def _rename(self, call: RecordedCall) -> None:
        old, new = self._two_entries(call)
        if old is None and new is None:
            return
        if old is None or new is None:
            raise NotModelled("a rename across the border of the repository")
        moved, replaced = self._inode(old), self._inode(new)
        exchanged = replaced if "RENAME_EXCHANGE" in call.text else None
        self._rebind(call, (*old, exchanged), (*new, moved))

    def _two_entries(self, call: RecordedCall) -> list[tuple[Inode, str] | None]:
        """Return the old and the new entry of a rename or link."""
        given = call.arguments
        folders = given[0:4:2] if call.name.removesuffix("2").endswith("at") else [_HERE, _HERE]
        pairs = zip(call.strings, folders, strict=True)
        return [self._entry(name, folder) for name, folder in pairs]

    def _link(self, call: RecordedCall) -> None:
        old, new = self._two_entries(call)
        if old is not None and new is not None:
            self._rebind(call, (*new, self._inode(old)))

    def _unlink(self, call: RecordedCall) -> None:
        folder = call.arguments[0] if call.name == "unlinkat" else _HERE
        entry = self._entry(call.strings[0], folder)
        if entry is not None:
            self._rebind(call, (*entry, None))

    def _mkdir(self, call: RecordedCall) -> None:
        folder = call.arguments[0] if call.name == "mkdirat" else _HERE
        entry = self._entry(call.strings[0], folder)
        if entry is not None:
            self._rebind(call, (*entry, self.storage.make_folder()))

    # Descriptors

    def _close(self, call: RecordedCall) -> None:
        self._files.pop(int(call.text), None)

    def _dup(self, call: RecordedCall) -> None:
        if call.name != "fcntl" or "F_DUPFD" in call.text:
            opened = self._files.get(int(call.arguments[0]))
            if opened is not None:
                self._files[call.result] = opened

    def _mmap(self, call: RecordedCall) -> None:
        """Refuse writable shared mappings, except of the lock file of LMDB: it is not durable."""
        _, _, protection, flags, fd, _ = call.arguments
        opened = self._files.get(int(fd))
        if opened is not None and "MAP_SHARED" in flags and "PROT_WRITE" in protection:
            locks = [
                folder.entries.get(LOCK)
                for folder in self.storage.root.entries.values()
                if folder.is_folder
            ]
            if opened.inode not in locks:
                raise NotModelled("a write to a file by a memory mapping")

    # Content

    def _write(self, call: RecordedCall) -> None:
        opened = self._files.get(int(call.arguments[0]))
        if opened is None:
            self._record_message(call)
            return
        data = b"".join(call.strings)
        if call.ended != NEVER:
            data = data[: call.result]
        is_placed = call.name == "pwrite64"
        offset = int(call.arguments[-1]) if is_placed else opened.offset
        opened.inode.write(call.begun, call.ended, offset, data, lasts=opened.is_lasting)
        if not is_placed:
            opened.offset += len(data)
        self._changed(call)

    def _record_message(self, call: RecordedCall) -> None:
        data = b"".join(call.strings) if call.name == "write" else b""
        if data.startswith(b'{"'):
            self.sent.append(SentMessage(call.begun, json.loads(data)))
            self.moments |= {call.begun, call.begun + 1}

    def _seek(self, call: RecordedCall) -> None:
        opened = self._files.get(int(call.arguments[0]))
        if opened is not None:
            opened.offset = call.result

    def _resize(self, call: RecordedCall) -> None:
        inode = self._of(call)
        if inode is None:
            return
        size = int(call.arguments[-1])
        if call.name == "fallocate":
            if call.arguments[1] != "0":
                raise NotModelled(f"fallocate({call.text})")
            size = max(inode.size, int(call.arguments[2]) + size)
        if size != inode.size:
            inode.resize(call.begun, call.ended, size)
            self._changed(call)

    def _of(self, call: RecordedCall) -> Inode | None:
        if call.name == "truncate":
            entry = self._entry(call.strings[0])
            return None if entry is None else self._inode(entry)
        opened = self._files.get(int(call.arguments[0]))
        return None if opened is None else opened.inode

    def _sync(self, call: RecordedCall) -> None:
        opened = self._files.get(int(call.text))
        if opened is not None and call.ended != NEVER:
            opened.inode.syncs.append((call.begun, call.ended))
            self._changed(call)


_Act = Callable[[Trace, RecordedCall], Any]
_AT_BEGIN: Final[dict[str, _Act]] = {
    "write": Trace._write,
    "writev": Trace._write,
    "pwrite64": Trace._write,
    "ftruncate": Trace._resize,
    "truncate": Trace._resize,
    "fallocate": Trace._resize,
    "fsync": Trace._sync,
    "fdatasync": Trace._sync,
    "close": Trace._close,
    "mmap": Trace._mmap,
}
_AT_END: Final[dict[str, _Act]] = {
    "openat": Trace._openat,
    "lseek": Trace._seek,
    "dup": Trace._dup,
    "dup2": Trace._dup,
    "dup3": Trace._dup,
    "fcntl": Trace._dup,
    "rename": Trace._rename,
    "renameat": Trace._rename,
    "renameat2": Trace._rename,
    "link": Trace._link,
    "linkat": Trace._link,
    "unlink": Trace._unlink,
    "unlinkat": Trace._unlink,
    "rmdir": Trace._unlink,
    "mkdir": Trace._mkdir,
    "mkdirat": Trace._mkdir,
}
