"""What storage may hold when the power goes, told from the calls that were made until then.

The promises that are taken for granted are those of POSIX, and of a journal no more than this:

- What was written lasts once an fsync or fdatasync of the file, begun after the write had
  returned, has returned; or the write itself, where the file is open with O_DSYNC. The size of a
  file lasts with its bytes. Nothing else makes bytes last: no close, no rename, no sync_file_range.
- Names made, changed and removed last once an fsync of their folder, begun after that call had
  returned, has returned. An fsync of a file makes no name of it last.
- Until then each write may be on the storage, or not, or in any of its sectors of 512 bytes; and
  each change of names may be there or not, in any combination in which changes of the same name
  keep their order. A rename is there as a whole or not at all; so is an exchange.
- A sector holds what the file held there at some moment. Bytes that never came there are zeros.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

SECTOR: Final = 512

LossMode = Literal["lost", "kept", "names", "bytes", "journal", "mixed"]
"""What becomes of what need not last: all is lost; all is kept; only names are kept, only bytes;
names are kept in the order of a journal, bytes by chance; both by chance, each for itself."""
LOSS_MODES: Final[tuple[LossMode, ...]] = get_args(LossMode)

Fate = Literal["lost", "kept", "torn"]
FileTree = Mapping[str, bytes | None]
"""Content of files, None for folders, by path below the root."""


class Change(NamedTuple):
    """Bytes that were written, or, where there are none, another size."""

    begun: int
    ended: int
    offset: int
    data: bytes | None
    size: int
    """Of the whole file, afterwards."""
    is_lasting: bool
    """Whether it lasts once it has returned."""


@dataclass(eq=False, slots=True)
class Inode:
    """A file or a folder: what it was at first, and what was done to it."""

    is_folder: bool
    content: bytes = b""
    size: int = 0
    """Now."""
    changes: list[Change] = field(default_factory=list)
    entries: "dict[str, Inode]" = field(default_factory=dict)
    """Now."""
    syncs: list[tuple[int, int]] = field(default_factory=list)
    """When it was flushed: begun, ended."""

    def write(self, begun: int, ended: int, offset: int, data: bytes, *, lasts: bool) -> None:
        if data:
            self.size = max(self.size, offset + len(data))
            self.changes.append(Change(begun, ended, offset, data, self.size, lasts))

    def resize(self, begun: int, ended: int, size: int) -> None:
        self.changes.append(Change(begun, ended, 0, None, size, is_lasting=False))
        self.size = size

    def flushed_before(self, at: int) -> int:
        """Whatever had ended by then lasts, at moment *at*."""
        return max((begun for begun, ended in self.syncs if ended < at), default=-1)


class Rebinding(NamedTuple):
    """Names that came to mean something else, all in one instant."""

    begun: int
    ended: int
    names: dict[tuple[int, str], Inode | None]
    """By the folder's id() and the name; None: it is gone."""
    folders: tuple[Inode, ...]

    def is_flushed(self, at: int) -> bool:
        return any(self.ended < folder.flushed_before(at) for folder in self.folders)


class Storage:
    """A folder with all below it, as it was and as it became."""

    def __init__(self, path: Path) -> None:
        """What stands at *path* lasts already."""
        self._folders: dict[int, Inode] = {}
        self._before: dict[tuple[int, str], Inode] = {}
        self._rebindings: list[Rebinding] = []
        self.root = self._load(path)

    def _load(self, path: Path) -> Inode:
        if not path.is_dir():
            data = path.read_bytes()
            return Inode(is_folder=False, content=data, size=len(data))
        folder = self.make_folder()
        for each in sorted(path.iterdir()):
            folder.entries[each.name] = self._load(each)
            self._before[id(folder), each.name] = folder.entries[each.name]
        return folder

    def make_folder(self) -> Inode:
        folder = Inode(is_folder=True)
        self._folders[id(folder)] = folder
        return folder

    def rebind(self, begun: int, ended: int, *names: tuple[Inode, str, Inode | None]) -> None:
        """Let names in folders mean something else from now on."""
        for folder, name, inode in names:
            folder.entries.pop(name, None)
            if inode is not None:
                folder.entries[name] = inode
        bound = {(id(folder), name): inode for folder, name, inode in names}
        folders = tuple({id(folder): folder for folder, _, _ in names}.values())
        self._rebindings.append(Rebinding(begun, ended, bound, folders))

    def state(self, at: int, mode: LossMode, rnd: random.Random) -> FileTree:
        """What may be found if the power goes at moment *at*."""
        names = self._names(at, mode, rnd)
        below: dict[int, list[tuple[str, Inode]]] = {}
        for (folder, name), inode in names.items():
            below.setdefault(folder, []).append((name, inode))
        found: dict[str, bytes | None] = {}

        def walk(folder: Inode, prefix: str) -> None:
            for name, inode in sorted(below.get(id(folder), [])):
                found[prefix + name] = None if inode.is_folder else _content(inode, at, mode, rnd)
                if inode.is_folder:
                    walk(inode, f"{prefix}{name}/")

        walk(self.root, "")
        return found

    def _names(self, at: int, mode: LossMode, rnd: random.Random) -> dict[tuple[int, str], Inode]:
        names: dict[tuple[int, str], Inode | None] = dict(self._before)
        possible = [each for each in self._rebindings if each.begun < at]
        journal = rnd.randint(0, len(possible))
        lost: set[tuple[int, str]] = set()
        for number, each in enumerate(possible):
            is_flushed = each.is_flushed(at)
            is_kept = is_flushed or (
                not lost & each.names.keys() and _is_kept(mode, rnd, is_early=number < journal)
            )
            if is_kept:
                names.update(each.names)
            else:
                lost |= each.names.keys()
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
    """What may be found in a file."""
    flushed = inode.flushed_before(at)
    now, found = bytearray(inode.content), bytearray(inode.content)
    for change in inode.changes:
        if change.begun >= at:
            break
        is_flushed = change.ended < flushed or (change.is_lasting and change.ended < at)
        fate: Fate = "kept" if is_flushed else _fate(mode, rnd)
        _apply(change, now)
        if fate == "kept":
            if change.data is not None:
                _reach(found, now, change.offset, change.offset + len(change.data))
            _resize(found, change.size)
        elif fate == "torn":
            if change.data is not None:
                end = change.offset + len(change.data)
                for start in range(change.offset // SECTOR * SECTOR, end, SECTOR):
                    if rnd.random() < 0.5:
                        size = len(found)
                        _reach(found, now, start, start + SECTOR)
                        _resize(found, max(size, len(found) if rnd.random() < 0.5 else size))
            elif rnd.random() < 0.5:
                _resize(found, change.size)
    return bytes(found)


def _apply(change: Change, content: bytearray) -> None:
    if change.data is not None:
        _resize(content, max(len(content), change.offset))
        content[change.offset : change.offset + len(change.data)] = change.data
    _resize(content, change.size)


def _reach(found: bytearray, now: bytearray, start: int, end: int) -> None:
    """Let the sectors from *start* to *end* be on the storage as they are now."""
    start = start // SECTOR * SECTOR
    data = now[start : -(-end // SECTOR) * SECTOR]
    _resize(found, max(len(found), start))
    found[start : start + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
