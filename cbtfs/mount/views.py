"""Add the directories `slices` and `as` of each point to a file system; no listing shows them.

An inode base of its own identifies each of them, so that a worker finds the point of a number that
another worker has returned.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs.cache import Cache
from cbtfs.core.filenames import SLICES
from cbtfs.core.ids import PointId
from cbtfs.errors import PointNotFound
from cbtfs.mount.entry import Entry, EntryType
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.inodes import FIRST_DISK, SELF, Directory, base_and_slot, base_in, inode_of
from cbtfs.mount.slice_files import SliceFiles, slice_files
from cbtfs.mount.tree import DirectoryTree, PointNode
from cbtfs.views.slices import slices_of

_CACHED_POINTS: Final = 64
"""Points whose slices are cached."""
_CACHED_BASES: Final = 1 << 12
_NAMES: Final = {SLICES: Directory.SLICES}


@dataclass(frozen=True, slots=True)
class View:
    """A directory of views of one point."""

    node: PointNode
    directory: Directory

    @property
    def base(self) -> int:
        return base_in(self.node.base, self.directory)


class FileSystemWithViews:
    """Names, attributes and bytes of views; all other requests go to the file system."""

    def __init__(self, file_system: FileSystem) -> None:
        self._file_system = file_system
        self._bases: dict[int, View | None] = {}
        self._slices: Cache[PointId, SliceFiles] = Cache(_CACHED_POINTS, lambda _: 1)
        self.target = file_system.target
        self.leases = file_system.leases
        self.refresh = file_system.refresh

    @property
    def cached_bytes(self) -> int:
        """Size of the decoded chunks in the cache."""
        return self._file_system.cached_bytes

    @property
    def open_points(self) -> int:
        """Number of points with open files, in all workers."""
        return self._file_system.open_points

    # Inode numbers

    def _view_at(self, inode: int) -> View | None:
        """Return the directory of an inode number, or None if it is not one of views."""
        base = base_and_slot(inode)[0]
        if base in self._file_system.tree.by_base:
            return None
        if base in self._bases:
            return self._bases[base]
        view = self._find(base, self._file_system.tree)
        if view is None:
            view = self._find(base, self._file_system.current_tree())
        if len(self._bases) >= _CACHED_BASES:
            self._bases.clear()
        if view is not None:
            self._bases[base] = view
        return view

    def _find(self, base: int, tree: DirectoryTree) -> View | None:
        opened = {node.base: node for node in self._file_system.open_nodes()}
        for directory in Directory:
            origin = base_in(base, directory)
            node = tree.by_base.get(origin) or opened.get(origin)
            if isinstance(node, PointNode):
                return None if directory is Directory.POINT else View(node, directory)
        return None

    # Names

    def lookup(self, parent: int, name: str) -> Entry | None:
        view = self._view_at(parent)
        if view is not None:
            return self._slices_of(view.node).find(base_and_slot(parent)[1], name)
        entry = self._file_system.lookup(parent, name)
        directory = _NAMES.get(name)
        if entry is not None or directory is None:
            return entry
        base, slot = base_and_slot(parent)
        node = self._file_system.tree.by_base.get(base)
        if not isinstance(node, PointNode) or slot != SELF:
            return None
        return self._directory(View(node, directory))

    def entry(self, inode: int) -> Entry:
        view = self._view_at(inode)
        if view is None:
            return self._file_system.entry(inode)
        slot = base_and_slot(inode)[1]
        if slot == SELF:
            return self._directory(view)
        node = self._slices_of(view.node).at(slot)
        if node is None:
            raise PointNotFound(f"no file has the inode number {inode}")
        return node.entry

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        view = self._view_at(inode)
        if view is None:
            return self._file_system.entries(inode, after)
        return self._slices_of(view.node).entries(base_and_slot(inode)[1], after)

    def _directory(self, view: View) -> Entry:
        time_ns = self._file_system.files_of(view.node).time_ns
        return Entry(
            *(SLICES, inode_of(view.base), EntryType.DIRECTORY, time_ns),
            is_name_permanent=True,
            is_content_permanent=True,
        )

    def _slices_of(self, node: PointNode) -> SliceFiles:
        files = self._file_system.files_of(node)

        cached = self._slices.get(node.point)
        if cached is not None:
            return cached
        slices = slices_of(self._file_system.reader, files.manifest)
        found = slice_files(slices, files.manifest, node.base, files.time_ns)
        if found.failure is not None:
            return found  # not cached, because a repair can heal it
        return self._slices.load(node.point, lambda: found)

    # Files

    def open(self, inode: int) -> Entry:
        view = self._view_at(inode)
        if view is None:
            return self._file_system.open(inode)
        self.leases.open(view.node.point)
        try:
            return self.entry(inode)
        except BaseException:
            self.leases.close(view.node.point)
            raise

    def close(self, inode: int) -> None:
        view = self._view_at(inode)
        if view is None:
            self._file_system.close(inode)
        else:
            self.leases.close(view.node.point)

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        return self._view_at(inode) is None and self._file_system.prepare(inode, offset, length)

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview:
        view = self._view_at(inode)
        if view is None:
            return self._file_system.read(inode, offset, length)
        self.leases.take(view.node.point)
        node = self._slices_of(view.node).at(base_and_slot(inode)[1])
        if node is None or node.slice is None:
            raise PointNotFound(f"no file has the inode number {inode}")
        return b"".join(
            self._file_system.read(
                inode_of(view.node.base, FIRST_DISK + piece.disk), piece.offset, piece.length
            )
            for piece in node.slice.pieces(offset, length)
        )
