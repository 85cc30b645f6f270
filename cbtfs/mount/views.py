"""Add the directories `slices` and `as` of each point to a file system; no listing shows them."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from cbtfs.cache import Cache
from cbtfs.core.filenames import SLICES, VIEWS
from cbtfs.core.ids import PointId
from cbtfs.errors import PointNotFound
from cbtfs.mount.entry import Entry, EntryType
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.images import Images
from cbtfs.mount.inodes import SELF, Directory, base_and_slot, disk_inode, inode_of
from cbtfs.mount.slice_files import SliceFiles, slice_files
from cbtfs.mount.tree import PointNode
from cbtfs.mount.view_bases import View, ViewBases
from cbtfs.views.slices import slices_of
from cbtfs.volumes.segment import Slice

_CACHED_POINTS: Final = 64
"""Points whose slices are cached."""
_DIRECTORIES: Final = {SLICES: Directory.SLICES, VIEWS: Directory.IMAGES}
_NAMES: Final = {directory: name for name, directory in _DIRECTORIES.items()}


class FileSystemWithViews:
    """Names, attributes and bytes of views; all other requests go to the file system."""

    def __init__(self, file_system: FileSystem, mountpoint: str) -> None:
        self._file_system = file_system
        self._bases = ViewBases(file_system)
        self._images = Images(file_system, self._bases, mountpoint)
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

    # Names

    def lookup(self, parent: int, name: str) -> Entry | None:
        view = self._bases.view(parent)
        slot = base_and_slot(parent)[1]
        if view is not None:
            if view.directory is Directory.SLICES:
                return self._slices_of(view.node).find(slot, name)
            return self._images.find(view.node, name) if slot == SELF else None
        entry = self._file_system.lookup(parent, name)
        directory = _DIRECTORIES.get(name)
        if entry is not None or directory is None or slot != SELF:
            return entry
        node = self._file_system.tree.by_base.get(base_and_slot(parent)[0])
        return self._directory(View(node, directory)) if isinstance(node, PointNode) else None

    def entry(self, inode: int) -> Entry:
        view = self._bases.view(inode)
        if view is None:
            return self._file_system.entry(inode)
        slot = base_and_slot(inode)[1]
        if slot == SELF and view.directory in _NAMES and view.since is None:
            return self._directory(view)
        if view.directory is Directory.SLICES:
            node = self._slices_of(view.node).at(slot)
            entry = None if node is None else node.entry
        else:
            entry = self._images.entry(view, slot)
        if entry is None:
            raise PointNotFound(f"no file has the inode number {inode}")
        return entry

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        view = self._bases.view(inode)
        if view is None:
            return self._file_system.entries(inode, after)
        if view.directory is Directory.SLICES:
            return self._slices_of(view.node).entries(base_and_slot(inode)[1], after)
        return iter(list(self._images.entries(view.node, after)))

    def _directory(self, view: View) -> Entry:
        time_ns = self._file_system.files_of(view.node).time_ns
        return Entry(
            *(_NAMES[view.directory], inode_of(view.base), EntryType.DIRECTORY, time_ns),
            is_name_permanent=True,
            is_content_permanent=True,
        )

    def _slices_of(self, node: PointNode) -> SliceFiles:
        files = self._file_system.files_of(node)
        cached = self._slices.get(node.point)
        if cached is not None:
            return cached
        slices = slices_of(self._file_system.reader, files.manifest)
        fresh = slice_files(slices, files.manifest, node.base, files.time_ns)
        if fresh.failure is not None:
            return fresh  # not cached, because a repair can heal it
        return self._slices.load(node.point, lambda: fresh)

    # Files

    def open(self, inode: int) -> Entry:
        view = self._bases.view(inode)
        if view is None:
            return self._file_system.open(inode)
        with ExitStack() as stack:
            for node in view.nodes:
                self.leases.open(node.point)
                stack.callback(self.leases.close, node.point)
            entry = self.entry(inode)
            stack.pop_all()
            return entry

    def close(self, inode: int) -> None:
        view = self._bases.view(inode)
        if view is None:
            self._file_system.close(inode)
            return
        for node in view.nodes:
            self.leases.close(node.point)

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        view = self._bases.view(inode)
        if view is None:
            return self._file_system.prepare(inode, offset, length)
        if view.directory is not Directory.SLICES:
            return False
        slice_ = self._slice_at(view, inode)
        return self._file_system.open_slice(inode, view.node, slice_) and all(
            self._file_system.prepare(
                disk_inode(view.node.base, piece.disk), piece.offset, piece.length
            )
            for piece in slice_.pieces(offset, length)
        )

    def prepare_seek(self, inode: int, offset: int) -> int | None:
        view = self._bases.view(inode)
        if view is None:
            return self._file_system.prepare_seek(inode, offset)
        if view.directory is not Directory.SLICES:
            return self.entry(inode).size
        slice_ = self._slice_at(view, inode)
        if not self._file_system.open_slice(inode, view.node, slice_):
            return slice_.size
        for piece in slice_.pieces(offset, 1):
            self._file_system.prepare_seek(disk_inode(view.node.base, piece.disk), piece.offset)
        return None

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview:
        view = self._bases.view(inode)
        if view is None:
            return self._file_system.read(inode, offset, length)
        for node in view.nodes:
            self.leases.take(node.point)
        slot = base_and_slot(inode)[1]
        if view.directory is Directory.SLICES:
            return self._read_slice(view, inode, offset, length)
        content = self._images.content(view, slot)
        if content is None:
            raise PointNotFound(f"no file has the inode number {inode}")
        return content.read(offset, length)

    def _read_slice(self, view: View, inode: int, offset: int, length: int) -> bytes:
        return b"".join(
            self._file_system.read(
                disk_inode(view.node.base, piece.disk), piece.offset, piece.length
            )
            for piece in self._slice_at(view, inode).pieces(offset, length)
        )

    def _slice_at(self, view: View, inode: int) -> Slice:
        slot = base_and_slot(inode)[1]
        node = self._slices_of(view.node).at(slot)
        if node is None or node.slice is None:
            raise PointNotFound(f"point {view.node.point} has no slice in slot {slot}")
        return node.slice
