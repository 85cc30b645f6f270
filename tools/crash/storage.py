"""Model of storage: its possible content after a power cut, derived from the recorded calls.

The model assumes the guarantees of POSIX and a minimal journal:

- Written bytes are durable once an fsync or fdatasync of the file has returned that began after the
  return of the write; if the file is open with O_DSYNC, once the write has returned. The size of a
  file is durable with its bytes. No other call makes bytes durable: not close, rename or
  sync_file_range.
- A created, changed or removed name is durable once an fsync of its folder has returned that began
  after the return of that call. An fsync of a file does not make its name durable.
- Before that, a write may be on the storage completely, not at all, or in any of its sectors of 512
  bytes. Each change of a name may be present or absent, in any combination that keeps the order of
  the changes of one name. A rename is atomic; so is an exchange.
- A sector has the content of the file at some moment. Bytes that were never written are zeros.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

SECTOR: Final = 512

LossMode = Literal["lost", "kept", "names", "bytes", "journal", "mixed"]
"""Treatment of changes that are not durable.

*lost*: all are lost. *kept*: all are kept. *names*, *bytes*: only names or only bytes are kept.
*journal*: names are kept in journal order, bytes at random. *mixed*: each is kept at random.
"""
LOSS_MODES: Final[tuple[LossMode, ...]] = get_args(LossMode)

Fate = Literal["lost", "kept", "torn"]
FileTree = Mapping[str, bytes | None]
"""Content of files by path below the root; None for folders."""


class ContentChange(NamedTuple):
    """A write, or, without data, a change of the size."""

    begun: int
    ended: int
    offset: int
    data: bytes | None
    size: int
    """Size of the whole file after the change."""
    is_lasting: bool
    """Whether the change is durable once the call has returned."""


@dataclass(eq=False, slots=True)
class Inode:
    """A file or a folder: its initial content and its changes."""

    is_folder: bool
    content: bytes = b""
    size: int = 0
    """Current size."""
    changes: list[ContentChange] = field(default_factory=list)
    entries: "dict[str, Inode]" = field(default_factory=dict)
    """Current entries of a folder."""
    syncs: list[tuple[int, int]] = field(default_factory=list)
    """Begin and end of each flush."""

    def write(self, begun: int, ended: int, offset: int, data: bytes, *, lasts: bool) -> None:
        if data:
            self.size = max(self.size, offset + len(data))
            self.changes.append(ContentChange(begun, ended, offset, data, self.size, lasts))

    def resize(self, begun: int, ended: int, size: int) -> None:
        self.changes.append(ContentChange(begun, ended, 0, None, size, is_lasting=False))
        self.size = size

    def flushed_before(self, at: int) -> int:
        """Return the moment before which all ended changes are durable, at moment *at*."""
        return max((begun for begun, ended in self.syncs if ended < at), default=-1)


class Rebinding(NamedTuple):
    """An atomic change of one or more names."""

    begun: int
    ended: int
    names: dict[tuple[int, str], Inode | None]
    """New inode by id() of the folder and name; None for a removed name."""
    folders: tuple[Inode, ...]

    def is_flushed(self, at: int) -> bool:
        return any(self.ended < folder.flushed_before(at) for folder in self.folders)


class Storage:
    """A folder tree: its initial state and all changes."""

    def __init__(self, path: Path) -> None:
        """Load the tree at *path*; its content is durable."""
        self._folders: dict[int, Inode] = {}
        self._before: dict[tuple[int, str], Inode] = {}
        self._rebindings: list[Rebinding] = []
        self.root = self._load(path)

    def _load(self, path: Path) -> Inode:
        if not path.is_dir():
            data = path.read_bytes()
            return Inode(is_folder=False, content=data, size=len(data))
        folder = self.make_folder()
        for entry in sorted(path.iterdir()):
            folder.entries[entry.name] = self._load(entry)
            self._before[id(folder), entry.name] = folder.entries[entry.name]
        return folder

    def make_folder(self) -> Inode:
        folder = Inode(is_folder=True)
        self._folders[id(folder)] = folder
        return folder

    def rebind(self, begun: int, ended: int, *names: tuple[Inode, str, Inode | None]) -> None:
        """Change names in folders atomically; each is given as folder, name and new inode."""
        for folder, name, inode in names:
            folder.entries.pop(name, None)
            if inode is not None:
                folder.entries[name] = inode
        bound = {(id(folder), name): inode for folder, name, inode in names}
        folders = tuple({id(folder): folder for folder, _, _ in names}.values())
        self._rebindings.append(Rebinding(begun, ended, bound, folders))

    def state(self, at: int, mode: LossMode, rnd: random.Random) -> FileTree:
        """Return a possible content after a power cut at moment *at*."""
        names = self._names(at, mode, rnd)
        below: dict[int, list[tuple[str, Inode]]] = {}
        for (folder, name), inode in names.items():
            below.setdefault(folder, []).append((name, inode))
        tree: dict[str, bytes | None] = {}

        def walk(folder: Inode, prefix: str) -> None:
            for name, inode in sorted(below.get(id(folder), [])):
                tree[prefix + name] = None if inode.is_folder else _content(inode, at, mode, rnd)
                if inode.is_folder:
                    walk(inode, f"{prefix}{name}/")

        walk(self.root, "")
        return tree

    def _names(self, at: int, mode: LossMode, rnd: random.Random) -> dict[tuple[int, str], Inode]:
        names: dict[tuple[int, str], Inode | None] = dict(self._before)
        possible = [rebinding for rebinding in self._rebindings if rebinding.begun < at]
        journal = rnd.randint(0, len(possible))
        lost: set[tuple[int, str]] = set()
        for number, rebinding in enumerate(possible):
            is_flushed = rebinding.is_flushed(at)
            is_kept = is_flushed or (
                not lost & rebinding.names.keys() and _is_kept(mode, rnd, is_early=number < journal)
            )
            if is_kept:
                names.update(rebinding.names)
            else:
                lost |= rebinding.names.keys()
        return {key: inode for key, inode in names.items() if inode is not None}


def _is_kept(mode: LossMode, rnd: random.Random, *, is_early: bool) -> bool:
    if mode == "journal":
        return is_early
    return mode in ("kept", "names") or (mode == "mixed" and rnd.random() < 0.5)


def _fate(mode: LossMode, rnd: random.Random) -> Fate:
    if mode in ("kept", "bytes"):
        return "kept"
    if mode in ("lost", "names"):
        return "lost"
    return rnd.choice(get_args(Fate))


def _content(inode: Inode, at: int, mode: LossMode, rnd: random.Random) -> bytes:
    """Return a possible content of a file after a power cut at moment *at*."""
    flushed = inode.flushed_before(at)
    current, stored = bytearray(inode.content), bytearray(inode.content)
    for change in inode.changes:
        if change.begun >= at:
            break
        is_flushed = change.ended < flushed or (change.is_lasting and change.ended < at)
        fate: Fate = "kept" if is_flushed else _fate(mode, rnd)
        _apply(change, current)
        if fate == "kept":
            if change.data is not None:
                _store(stored, current, change.offset, change.offset + len(change.data))
            _resize(stored, change.size)
        elif fate == "torn":
            if change.data is not None:
                end = change.offset + len(change.data)
                for start in range(change.offset // SECTOR * SECTOR, end, SECTOR):
                    if rnd.random() < 0.5:
                        size = len(stored)
                        _store(stored, current, start, start + SECTOR)
                        _resize(stored, max(size, len(stored) if rnd.random() < 0.5 else size))
            elif rnd.random() < 0.5:
                _resize(stored, change.size)
    return bytes(stored)


def _apply(change: ContentChange, content: bytearray) -> None:
    if change.data is not None:
        _resize(content, max(len(content), change.offset))
        content[change.offset : change.offset + len(change.data)] = change.data
    _resize(content, change.size)


def _store(stored: bytearray, current: bytearray, start: int, end: int) -> None:
    """Copy the sectors from *start* to *end* of the current content to the storage."""
    start = start // SECTOR * SECTOR
    data = current[start : -(-end // SECTOR) * SECTOR]
    _resize(stored, max(len(stored), start))
    stored[start : start + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
