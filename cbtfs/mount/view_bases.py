"""The views that inode bases belong to. Nothing is stored: a base tells its point or points."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs.errors import PointNotFound
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.inodes import FIRST_BASE, Directory, base_and_slot, base_in, since_base
from cbtfs.mount.tree import DirectoryTree, PointNode

_CACHED_BASES: Final = 1 << 12


@dataclass(frozen=True, slots=True)
class View:
    """A directory of views of one point, or the images with the changes since an earlier point."""

    node: PointNode
    directory: Directory
    since: PointNode | None = None

    @property
    def base(self) -> int:
        if self.since is not None:
            return since_base(self.node.base, self.since.base)
        return base_in(self.node.base, self.directory)

    @property
    def nodes(self) -> list[PointNode]:
        """The points whose data the view needs."""
        return [self.node] if self.since is None else [self.node, self.since]


class ViewBases:
    """Finds the views of inode numbers. Safe to use from several threads."""

    def __init__(self, file_system: FileSystem) -> None:
        self._file_system = file_system
        self._views: dict[int, View] = {}

    def view(self, inode: int) -> View | None:
        """Return the view of an inode number, or None if the number does not belong to one."""
        base = base_and_slot(inode)[0]
        if base < FIRST_BASE or base in self._file_system.tree.by_base:
            return None
        view = self._views.get(base) or self._find(base)
        if view is not None:
            if len(self._views) >= _CACHED_BASES:
                self._views.clear()
            self._views[base] = view
        return view

    def _find(self, base: int) -> View | None:
        opened = {node.base: node for node in self._file_system.open_nodes()}
        if base in opened:
            return None
        tree = self._file_system.tree
        view = self._of_point(base, tree, opened)
        if view is None and base not in (tree := self._file_system.current_tree()).by_base:
            view = self._of_point(base, tree, opened) or self._of_two(base, tree, opened)
        return view

    @staticmethod
    def _of_point(base: int, tree: DirectoryTree, opened: dict[int, PointNode]) -> View | None:
        for directory in (Directory.SLICES, Directory.IMAGES, Directory.DESCRIPTORS):
            origin = base_in(base, directory)
            node = tree.by_base.get(origin) or opened.get(origin)
            if isinstance(node, PointNode):
                return View(node, directory)
        return None

    def _of_two(self, base: int, tree: DirectoryTree, opened: dict[int, PointNode]) -> View | None:
        """Return the view of two points of one VM; look at each point once."""
        for node in _points(tree, opened):
            other = since_base(base, node.base)
            since = tree.by_base.get(other) or opened.get(other)
            if isinstance(since, PointNode) and self.is_earlier(since, node):
                return View(node, Directory.IMAGES, since)
        return None

    def is_earlier(self, since: PointNode, node: PointNode) -> bool:
        """Return True if *since* is a point of the same VM that was captured before *node*."""
        try:
            ours = self._file_system.files_of(node).manifest
            theirs = self._file_system.files_of(since).manifest
        except PointNotFound:
            return False
        return ours.vm.id == theirs.vm.id and theirs.order < ours.order


def _points(tree: DirectoryTree, opened: dict[int, PointNode]) -> Iterator[PointNode]:
    for vm in tree.listed:
        yield from vm.listed
    yield from (node for base, node in opened.items() if base not in tree.by_base)
