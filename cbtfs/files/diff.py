"""The differences between the files of two points."""

import enum
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.files.compare import has_same_content
from cbtfs.files.folder import Folder
from cbtfs.files.guest_folders import guest_folders, root_folder
from cbtfs.files.point import PointFiles
from cbtfs.files.protocol import GuestFileMissing
from cbtfs.files.volume_at import VolumeAt
from cbtfs.files.volumes import Volume
from cbtfs.files.walk import LeftOut

_TYPE: Final = 0o170000


class ChangeKind(enum.StrEnum):
    """Kind of change of a path between two points."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Facts(NamedTuple):
    """A file at one point."""

    mode: int
    """Type and permissions as in stat(); 0 for an entry whose inode cannot be read."""
    inode: int
    owner: int
    group: int
    size: int
    modified: int
    """Nanoseconds since 1970, at most 2^63 from it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs between two points."""

    path: str
    before: Facts | None
    after: Facts | None
    aspects: tuple[str, ...] = ()
    """Of a changed file: type, mode, owner, size, modified, content, target, device."""

    @property
    def kind(self) -> ChangeKind:
        if self.before is None:
            return ChangeKind.ADDED
        return ChangeKind.REMOVED if self.after is None else ChangeKind.CHANGED


class _Row(NamedTuple):
    """A file in the folders of a point."""

    facts: Facts
    place: str | None
    layout: int
    is_touched: bool


_Directories = dict[str, dict[str, _Row]]


def differences(
    left: PointFiles, right: PointFiles, path: str, left_out: LeftOut
) -> Iterator[Change]:
    """Yield the paths at or below *path* that differ, directory by directory.

    Equal to a comparison of all files, each read. Contents are compared only where the block maps
    differ, if the volumes are in the same places on the same disks. Sizes of directories, times of
    access and of changes of inodes, and attributes are not compared. A part that cannot be read at
    one of the points is added to *left_out*.

    Raises:
        GuestFileMissing: no file has this path at either point.
        CbtfsError: the block maps cannot be compared.
    """
    yield from _Comparison(left, right, left_out).below(_located(left, right, path))


def _located(left: PointFiles, right: PointFiles, path: str) -> str:
    """Return the path without links, as the later point has it, or else the earlier one."""
    missing: GuestFileMissing | None = None
    for files in (right, left):
        try:
            return files.tree.find(path).path
        except GuestFileMissing as exc:
            missing = exc
    assert missing is not None
    raise missing


class _Comparison:
    def __init__(self, left: PointFiles, right: PointFiles, left_out: LeftOut) -> None:
        self._left = left
        self._right = right
        self._left_out = left_out
        self._areas: dict[str, list[Extent]] = {}
        for place, volume in left.places.items():
            other = right.places.get(place)
            if other is not None and other.name == volume.name:
                ours, theirs = VolumeAt(volume, left.disks), VolumeAt(other, right.disks)
                size = max(volume.source.size, other.source.size)
                if size and ours.is_like(theirs):
                    self._areas[place] = list(ours.changed(theirs, Extent(0, size)))

    def below(self, top: str) -> Iterator[Change]:
        before, after = self._directories(self._left, top), self._directories(self._right, top)
        prefix = top.rstrip("/") + "/"
        parent, _, name = top.rpartition("/")
        unread = {path for path, _ in self._left_out.items}
        if top == "/" and "/" not in unread:
            yield from self._root()
        for path in sorted(before.keys() | after.keys(), key=lambda path: path.split("/")):
            if unread and not unread.isdisjoint(_above(path)):
                continue
            if path == top or path.startswith(prefix):
                yield from self._in_directory(path, before.get(path, {}), after.get(path, {}))
            elif path == (parent or "/"):
                ours, theirs = (
                    {n: r for n, r in d.get(path, {}).items() if n == name} for d in (before, after)
                )
                yield from self._in_directory(path, ours, theirs)

    def _root(self) -> Iterator[Change]:
        rows = []
        for files in (self._left, self._right):
            file = files.tree.find("/")
            rows.append(_row(root_folder(file.file_system, "/"), 0, "/"))
        aspects = _aspects(rows[0].facts, rows[1].facts)
        if aspects:
            yield Change("/", rows[0].facts, rows[1].facts, aspects)

    def _directories(self, files: PointFiles, top: str) -> _Directories:
        found: _Directories = {}
        for item in guest_folders(files, self._left_out, self._areas_of, top):
            rows = found.setdefault(item.path, {})
            for at, name in enumerate(item.folder.names):
                rows[name] = _row(item.folder, at, item.place)
        return found

    def _areas_of(self, place: str, volume: Volume) -> Sequence[Extent]:
        return self._areas.get(place, [Extent(0, max(volume.source.size, 1))])

    def _in_directory(
        self, path: str, before: Mapping[str, _Row], after: Mapping[str, _Row]
    ) -> Iterator[Change]:
        prefix = path.rstrip("/") + "/"
        for name in sorted(before.keys() | after.keys()):
            ours, theirs = before.get(name), after.get(name)
            if ours is None or theirs is None:
                yield Change(prefix + name, ours and ours.facts, theirs and theirs.facts)
                continue
            aspects = _aspects(ours.facts, theirs.facts)
            try:
                aspects += self._content(prefix + name, ours, theirs)
            except CbtfsError as exc:
                self._left_out.add(prefix + name, exc)
            if aspects:
                yield Change(prefix + name, ours.facts, theirs.facts, aspects)

    def _content(self, path: str, ours: _Row, theirs: _Row) -> tuple[str, ...]:
        """Return the aspect in which the contents differ, if they do."""
        kind = ours.facts.mode & _TYPE
        if kind != theirs.facts.mode & _TYPE or kind in (0, stat.S_IFDIR):
            return ()
        if kind == stat.S_IFREG and ours.facts.size != theirs.facts.size:
            return ("content",)
        is_paired = ours.place == theirs.place and ours.place in self._areas
        is_same_place = is_paired and ours.layout == theirs.layout
        if is_same_place and not ours.is_touched and not theirs.is_touched:
            return ()
        left, right = self._left.tree.find(path), self._right.tree.find(path)
        if kind == stat.S_IFREG:
            areas = self._areas[ours.place] if is_paired and ours.place is not None else None
            return () if has_same_content(left, right, areas) else ("content",)
        if kind == stat.S_IFLNK:
            return () if left.target() == right.target() else ("target",)
        return () if left.entry.device == right.entry.device else ("device",)


def _above(path: str) -> Iterator[str]:
    """Yield a path and the directories above it."""
    yield path
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _row(folder: Folder, at: int, place: str | None) -> _Row:
    facts = Facts(
        folder.modes[at],
        folder.inodes[at],
        folder.owners[at],
        folder.groups[at],
        folder.sizes[at],
        folder.modified[at],
    )
    if not folder.layouts:
        return _Row(facts, place, 0, True)
    return _Row(facts, place, folder.layouts[at], bool(folder.touched[at]))


def _aspects(before: Facts, after: Facts) -> tuple[str, ...]:
    """Return the facts that differ."""
    kind = before.mode & _TYPE
    is_same_kind = kind == after.mode & _TYPE
    found = [] if is_same_kind else ["type"]
    if before.mode & ~_TYPE != after.mode & ~_TYPE:
        found.append("mode")
    if (before.owner, before.group) != (after.owner, after.group):
        found.append("owner")
    if is_same_kind and kind in (stat.S_IFREG, stat.S_IFLNK) and before.size != after.size:
        found.append("size")
    if before.modified != after.modified:
        found.append("modified")
    return tuple(found)
