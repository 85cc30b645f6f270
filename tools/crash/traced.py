"""A recording, played on a model of the storage: what each call did to which file."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from cbtfs.store.catalog.environment import LOCK
from tools.crash.child import Message
from tools.crash.recording import NEVER, Call
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
"""Calls that this program does not make; an answer for them would be a guess."""


_HERE: Final = "AT_FDCWD"


class NotModelled(Exception):
    """The recorded program did what the model has no answer for."""


@dataclass(slots=True)
class _Open:
    """An open file of the repository."""

    inode: Inode
    is_lasting: bool
    offset: int = 0


class SentMessage(NamedTuple):
    """What the program told its parent, and when."""

    begun: int
    message: Message


@dataclass(slots=True)
class Trace:
    """What a recorded program did below *root*, from a Storage that is like it was before."""

    root: Path
    storage: Storage
    moments: set[int] = field(default_factory=set)
    """Places in the recording around which something changed."""
    sent: list[SentMessage] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """How often each call changed or flushed something."""
    _files: dict[int, _Open] = field(default_factory=dict)

    def play(self, calls: Sequence[Call]) -> None:
        """Files are found by what a descriptor means when a call begins, and when others end."""
        steps = [(call.begun, False, call) for call in calls]
        steps += [(call.ended, True, call) for call in calls if call.ended != NEVER]
        for _, is_end, call in sorted(steps, key=lambda step: step[:2]):
            if not call.is_own:
                self._refuse_of_others(call)
            elif (act := (_AT_END if is_end else _AT_BEGIN).get(call.name)) is not None:
                act(self, call)
            elif call.name in _NOT_MODELLED:
                raise NotModelled(f"{call.name}({call.text[:80]})")

    def _refuse_of_others(self, call: Call) -> None:
        """Children of the program may read, no more."""
        if call.name == "openat" and not self._is_reading(call):
            path = self._path(call.strings[0])
            if path is not None:
                raise NotModelled(f"a child process writes to {path}")

    @staticmethod
    def _is_reading(call: Call) -> bool:
        return "O_RDONLY" in call.text and "O_CREAT" not in call.text

    def _changed(self, call: Call) -> None:
        self.moments |= {call.begun, call.begun + 1}
        if call.ended != NEVER:
            self.moments |= {call.ended, call.ended + 1}
        self.counts[call.name] = self.counts.get(call.name, 0) + 1

    # Names

    def _path(self, name: bytes) -> tuple[str, ...] | None:
        """The parts of an absolute path below the root; None of any other path."""
        path = os.path.normpath(os.fsdecode(name))
        if not path.startswith(str(self.root)):
            return None
        rest = path[len(str(self.root)) :]
        return None if rest and rest[0] != "/" else tuple(part for part in rest.split("/") if part)

    def _place(self, name: bytes, folder: str = _HERE) -> tuple[Inode, str] | None:
        """The folder in which a name is looked up, and its last part; None if not of ours."""
        if folder != _HERE and not name.startswith(b"/"):
            opened = self._files.get(int(folder))
            return None if opened is None else (opened.inode, os.fsdecode(name))
        parts = self._path(name)
        if parts is None:
            return None
        at = self.storage.root
        for part in parts[:-1]:
            at = at.entries[part]
        return at, parts[-1] if parts else ""

    def _inode(self, place: tuple[Inode, str]) -> Inode | None:
        folder, name = place
        return folder.entries.get(name) if name else folder

    def _openat(self, call: Call) -> None:
        folder, _, flags, *_ = call.arguments
        place = self._place(call.strings[0], folder)
        if place is None:
            return
        inode = self._inode(place)
        if inode is None:
            inode = Inode(is_folder=False)
            self._rebind(call, (*place, inode))
        elif "O_TRUNC" in flags and inode.size:
            inode.resize(call.begun, call.ended, 0)
            self._changed(call)
        if "O_APPEND" in flags:
            raise NotModelled("O_APPEND")
        self._files[call.result] = _Open(inode, "SYNC" in flags)

    def _rebind(self, call: Call, *names: tuple[Inode, str, Inode | None]) -> None:
        self.storage.rebind(call.begun, call.ended, *names)
        self._changed(call)

    def _rename(self, call: Call) -> None:
        there, here = self._two_places(call)
        if there is None and here is None:
            return
        if there is None or here is None:
            raise NotModelled("a rename into the repository, or out of it")
        moved, replaced = self._inode(there), self._inode(here)
        left = replaced if "RENAME_EXCHANGE" in call.text else None
        self._rebind(call, (*there, left), (*here, moved))

    def _two_places(self, call: Call) -> list[tuple[Inode, str] | None]:
        """What a rename or link names: from where, and to where."""
        given = call.arguments
        folders = given[0:4:2] if call.name.removesuffix("2").endswith("at") else [_HERE, _HERE]
        return [self._place(*each) for each in zip(call.strings, folders, strict=True)]

    def _link(self, call: Call) -> None:
        there, here = self._two_places(call)
        if there is not None and here is not None:
            self._rebind(call, (*here, self._inode(there)))

    def _unlink(self, call: Call) -> None:
        folder = call.arguments[0] if call.name == "unlinkat" else _HERE
        place = self._place(call.strings[0], folder)
        if place is not None:
            self._rebind(call, (*place, None))

    def _mkdir(self, call: Call) -> None:
        folder = call.arguments[0] if call.name == "mkdirat" else _HERE
        place = self._place(call.strings[0], folder)
        if place is not None:
            self._rebind(call, (*place, self.storage.make_folder()))

    # Descriptors

    def _close(self, call: Call) -> None:
        self._files.pop(int(call.text), None)

    def _dup(self, call: Call) -> None:
        if call.name != "fcntl" or "F_DUPFD" in call.text:
            opened = self._files.get(int(call.arguments[0]))
            if opened is not None:
                self._files[call.result] = opened

    def _mmap(self, call: Call) -> None:
        """Only the lock of LMDB is written to by memory, and it is nothing that need last."""
        _, _, protection, flags, fd, _ = call.arguments
        opened = self._files.get(int(fd))
        if opened is not None and "MAP_SHARED" in flags and "PROT_WRITE" in protection:
            locks = [
                folder.entries.get(LOCK)
                for folder in self.storage.root.entries.values()
                if folder.is_folder
            ]
            if opened.inode not in locks:
                raise NotModelled("a file is written to by memory")

    # Content

    def _write(self, call: Call) -> None:
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

    def _record_message(self, call: Call) -> None:
        data = b"".join(call.strings) if call.name == "write" else b""
        if data.startswith(b'{"'):
            self.sent.append(SentMessage(call.begun, json.loads(data)))
            self.moments |= {call.begun, call.begun + 1}

    def _seek(self, call: Call) -> None:
        opened = self._files.get(int(call.arguments[0]))
        if opened is not None:
            opened.offset = call.result

    def _resize(self, call: Call) -> None:
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

    def _of(self, call: Call) -> Inode | None:
        if call.name == "truncate":
            place = self._place(call.strings[0])
            return None if place is None else self._inode(place)
        opened = self._files.get(int(call.arguments[0]))
        return None if opened is None else opened.inode

    def _sync(self, call: Call) -> None:
        opened = self._files.get(int(call.text))
        if opened is not None and call.ended != NEVER:
            opened.inode.syncs.append((call.begun, call.ended))
            self._changed(call)


_Act = Callable[[Trace, Call], Any]
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
