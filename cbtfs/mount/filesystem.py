"""The file system of one worker: names, attributes and bytes by inode number. Calls may block."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cbtfs import listing
from cbtfs.cache import Cache
from cbtfs.core.filenames import VM_JSON
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, PointState, decode_manifest
from cbtfs.errors import DataCorrupt, PointNotFound
from cbtfs.mount.entry import Entry
from cbtfs.mount.files import PointFiles, encode_vm_json, files_of
from cbtfs.mount.inodes import (
    BY_ID,
    BY_ID_BASE,
    EXTRA,
    FORMER,
    POINT_LINK,
    ROOT,
    SELF,
    base_and_slot,
    disk_inode,
    inode_base_of,
    inode_of,
)
from cbtfs.mount.leases import Leases
from cbtfs.mount.listed import listed_vms
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.mount.open_disk import OpenDisk
from cbtfs.mount.tree import DirectoryTree, PointNode, VmNode, updated_tree
from cbtfs.native import Chunks, Requests
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository
from cbtfs.volumes.segment import Slice

REFRESH_SECONDS: Final = 1.0
"""Interval in which the catalog is checked for a replacement."""
_CACHED_POINTS: Final = 512
"""Number of points whose decoded manifests are cached."""
_CACHED_JSON_BYTES: Final = 1 << 20
"""Size of the cached vm.json documents: a listing needs their sizes, `ls -l` again."""
_NO_DISK: Final = 0
"""In place of the number of a disk: the range is zeros."""
_Segment = tuple[int, int, tuple[tuple[int, int], ...]]
"""Length, bytes of a stripe, and areas: number of the disk's file, and offset."""
_TIME_LINK_PREFIX: Final = "@"
"""First character of the name of a link to a point by time."""


class FileSystem:
    """One repository as a file system. Safe to use from several threads.

    All state is a cache: the catalog determines the meaning of an inode number, and the counts that
    the workers share determine the open files. Any worker can therefore answer any request.
    """

    def __init__(self, repository: Repository, open_counts: OpenCounts) -> None:
        self._catalog = repository.catalog
        self._points = repository.points
        self._requests: Requests | None = None
        self.reader = Reader(repository, is_strict=False, on_leaves_dropped=self._drop_leaves)
        self._open_counts = open_counts
        self.leases = Leases(repository.points, open_counts, self._close_files)
        self._disks: dict[int, OpenDisk] = {}
        self._slices: dict[int, PointId] = {}
        self._files: Cache[PointId, PointFiles] = Cache(_CACHED_POINTS, lambda _: 1)
        self._documents: Cache[tuple[PointState, bool], bytes] = Cache(_CACHED_JSON_BYTES, len)
        """Documents by state; a state contains the id of its point."""
        self._tree = DirectoryTree()
        self._version: bytes | None = None
        self._lock = threading.Lock()
        self._refreshed = time.monotonic()
        self.leases.take_all()
        self._current_tree()

    # Requests that compiled code answers

    @property
    def chunks(self) -> Chunks:
        """The reader of chunks, for Requests."""
        return self.reader.chunks

    def provide_leaves_to(self, requests: Requests) -> None:
        """Provide the leaves and maps of open disks to *requests*."""
        self._requests = requests

    def _drop_leaves(self) -> None:
        if self._requests is not None:
            self._requests.clear()

    def refresh(self) -> None:
        """Close deleted packs and follow changes of the catalog. Call about once a second."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        self.reader.refresh()
        self._refreshed = time.monotonic()

    # Names

    def _current_tree(self, *, is_missing: bool = False) -> DirectoryTree:
        """Return the tree of the catalog's current state, so that all workers agree.

        *is_missing*: a name is missing, so check at once if the catalog was replaced.
        """
        with self._lock:
            now = time.monotonic()
            if is_missing or now - self._refreshed >= REFRESH_SECONDS:
                self._refresh()
            with self._catalog.view() as view:
                version = view.points_version
                if version != self._version:
                    self._tree = updated_tree(self._tree, listed_vms(view))
                    self._version = version
            return self._tree

    def _node(self, base: int) -> VmNode | PointNode:
        """Return the directory with that base.

        Raises:
            PointNotFound: no directory has it.
        """
        node = self._tree.by_base.get(base)
        if not isinstance(node, PointNode):
            node = self._current_tree().by_base.get(base)
        if node is None:
            node = self._current_tree(is_missing=True).by_base.get(base)
        if node is not None:
            return node
        node = next((node for node in self.open_nodes() if node.base == base), None)
        if node is not None:
            return node
        raise PointNotFound(f"no directory has the inode base {base}")

    def current_tree(self) -> DirectoryTree:
        """Return the tree of the catalog's current state, also if the catalog was replaced."""
        return self._current_tree(is_missing=True)

    def open_nodes(self) -> list[PointNode]:
        """Return directories for the points with open files, which may be forgotten."""
        return [PointNode(p, inode_base_of(p), "") for p in self._open_counts.points()]

    @property
    def tree(self) -> DirectoryTree:
        """The tree at the last look-up: it may lack the newest points."""
        return self._tree

    def entry(self, inode: int) -> Entry:
        """Return the entry with that inode number.

        Raises:
            PointNotFound: no entry has it.
        """
        if inode == ROOT:
            return self._current_tree().entry
        base, slot = base_and_slot(inode)
        if base == BY_ID_BASE:
            return self._current_tree().by_id
        node = self._node(base)
        if slot == SELF:
            return node.entry
        if isinstance(node, VmNode):
            return {BY_ID: node.by_id, FORMER: node.linked(node.name)}.get(slot, node.link)
        if slot == POINT_LINK:
            return node.linked(node.name)
        files = self.files_of(node)
        if slot == EXTRA:
            return files.vm_json(len(self._vm_json(files)))
        disk = files.at(slot)
        if disk is None:
            raise PointNotFound(f"point {node.point} has no file in slot {slot}")
        return disk[1]

    def lookup(self, parent: int, name: str) -> Entry | None:
        """Return the entry with that name in a directory, or None."""
        if parent == ROOT:
            return self._current_tree().find(name) or self._current_tree(is_missing=True).find(name)
        if parent == inode_of(BY_ID_BASE):
            return self._current_tree().find_by_id(name) or self._current_tree(
                is_missing=True
            ).find_by_id(name)
        node = self._node(base_and_slot(parent)[0])
        if isinstance(node, VmNode):
            if name.startswith(_TIME_LINK_PREFIX):
                return self._time_link(node, name)
            entry = node.find(name)
            if entry is not None:
                return entry
            current = self._current_tree(is_missing=True).by_base.get(node.base)
            return current.find(name) if isinstance(current, VmNode) else None
        files = self.files_of(node)
        if name == VM_JSON:
            return files.vm_json(len(self._vm_json(files)))
        return files.find(name)

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        """Return the entries of a directory after offset *after*, each with its offset."""
        if inode == ROOT:
            return self._current_tree().entries(after)
        if inode == inode_of(BY_ID_BASE):
            return self._current_tree().entries_by_id(after)
        node = self._node(base_and_slot(inode)[0])
        if isinstance(node, VmNode):
            return node.entries(after)
        files = self.files_of(node)
        # Built as a list, because this thread may block or fail and the consumer may not.
        return iter(list(files.entries(lambda: len(self._vm_json(files)), after)))

    def target(self, inode: int) -> str:
        """Return the target of a symbolic link.

        Raises:
            PointNotFound: no link has that inode number.
        """
        base, slot = base_and_slot(inode)
        node = self._node(base)
        if isinstance(node, PointNode):
            if slot == POINT_LINK:
                return node.name
        elif slot == BY_ID:
            return node.name_from_by_id
        elif slot == FORMER:
            return node.name
        elif slot == EXTRA and node.latest is not None:
            return node.latest.name
        raise PointNotFound(f"no link has the inode number {inode}")

    def _time_link(self, node: VmNode, name: str) -> Entry | None:
        """Return the link with a name like `@-2d` or `@2026-11-20` to the matching point."""
        target = self.requested(node, name.removeprefix(_TIME_LINK_PREFIX))
        return None if target is None else target.linked(name)

    def requested(self, node: VmNode, which: str) -> PointNode | None:
        """Return the point of a VM that *which*, the text behind `VM@`, means; or None."""
        with self._catalog.view() as view:
            point = listing.requested(view, node.vm, which)
        vm = self._current_tree().by_base.get(node.base)
        return vm.node_of(point) if point is not None and isinstance(vm, VmNode) else None

    # Files

    def files_of(self, node: PointNode) -> PointFiles:
        """Return the files of a point.

        Raises:
            PointNotFound: the point does not exist, or it is forgotten and no file of it is open.
        """

        def load() -> PointFiles:
            with self._catalog.view() as view:
                record = view.point(node.point)
            if record is not None:
                data = record.manifest
            elif self._open_counts.is_open(node.point):
                data = self._points.load_forgotten(node.point)
            else:
                raise PointNotFound(f"point {node.point} does not exist")
            try:
                return files_of(decode_manifest(data), node.base)
            except ValueError as exc:
                raise DataCorrupt(f"point {node.point}: {exc}") from exc

        return self._files.load(node.point, load)

    def _vm_json(self, files: PointFiles) -> bytes:
        point = files.manifest.point
        with self._catalog.view() as view:
            record = view.point(point)
            if record is not None:
                current = listing.with_state(view, point, files.manifest, record)
                return self._encoded(files.manifest, current.state, current.is_damaged)
        return self._encoded(files.manifest, self._points.load_state(point)[0], False)

    def _encoded(self, manifest: Manifest, state: PointState, is_damaged: bool) -> bytes:
        def encode() -> bytes:
            return encode_vm_json(manifest, state, is_damaged=is_damaged)

        return self._documents.load((state, is_damaged), encode)

    def _point_of(self, inode: int) -> PointNode:
        node = self._node(base_and_slot(inode)[0])
        if isinstance(node, VmNode):
            raise PointNotFound("the inode number belongs to a directory, not to a file")
        return node

    def open(self, inode: int) -> Entry:
        """Open a file: it is readable until close(), even if its point is forgotten."""
        node = self._point_of(inode)
        self.leases.open(node.point)
        try:
            return self.entry(inode)
        except BaseException:
            self.leases.close(node.point)
            raise

    def close(self, inode: int) -> None:
        """Close an open file."""
        self.leases.close(self._point_of(inode).point)

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        """Provide the leaves of a read to Requests. Return False if only read() can answer it."""
        if self._requests is None or base_and_slot(inode)[1] == EXTRA:
            return False
        opened = self._disks.get(inode) or self._open_disk(inode)
        # Each time, because another thread may have dropped the disk after its last close.
        self._requests.add_disk(inode, opened.disk.size, opened.disk.record.block_size)
        for index, leaf in opened.disk.leaves(offset, length):
            self._requests.put_leaf(inode, index, leaf)
        return True

    def prepare_seek(self, inode: int, offset: int) -> int | None:
        """Provide the data map of an open disk at *offset* to Requests, and return None.

        Return the size of a file that has no holes, which is vm.json.

        Raises:
            ChunkMissing: a node of the block map does not exist; the message names point and disk.
            DataCorrupt: a node cannot be verified; the message names the same.
        """
        if base_and_slot(inode)[1] == EXTRA:
            return len(self._vm_json(self.files_of(self._point_of(inode))))
        opened = self._disks.get(inode) or self._open_disk(inode)
        if self._requests is None:
            return opened.disk.size
        self._requests.add_disk(inode, opened.disk.size, opened.disk.record.block_size)
        if offset < opened.disk.size:
            self._requests.put_map(inode, *opened.data_masks(offset))
        return None

    def open_slice(self, inode: int, node: PointNode, slice_: Slice) -> bool:
        """Provide a slice of a point to Requests. Return False if there is no Requests.

        prepare() and prepare_seek() provide its disks.
        """

        def segments() -> Iterator[_Segment]:
            for segment in slice_.segments:
                areas = tuple((disk_inode(node.base, a.disk), a.offset) for a in segment.areas)
                yield segment.length, segment.stripe_bytes, areas

        return self._open_segments(inode, node, segments)

    def open_parts(
        self, inode: int, node: PointNode, parts: Sequence[tuple[int, int | None, int]]
    ) -> bool:
        """Provide a file that consists of parts of the disks of a point; see open_slice().

        *parts*: length, disk and offset of each; the disk is None for zeros.
        """

        def segments() -> Iterator[_Segment]:
            for length, disk, offset in parts:
                place = _NO_DISK if disk is None else disk_inode(node.base, disk)
                yield length, length, ((place, offset),)

        return self._open_segments(inode, node, segments)

    def _open_segments(
        self, inode: int, node: PointNode, segments: Callable[[], Iterator[_Segment]]
    ) -> bool:
        if self._requests is None:
            return False
        if not self._requests.has_file(inode):
            self.leases.take(node.point)
            self._slices[inode] = node.point
            self._requests.add_slice(inode, tuple(segments()))
        return True

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes [offset, offset + length) of an open file, fewer only at its end.

        Raises:
            ChunkMissing: a chunk does not exist; the message names point, disk, extent and chunk.
            DataCorrupt: a byte cannot be verified; the message names the same.
        """
        if base_and_slot(inode)[1] == EXTRA:
            content = self._vm_json(self.files_of(self._point_of(inode)))
            return content[offset : offset + length]
        opened = self._disks.get(inode) or self._open_disk(inode)
        return opened.read(offset, length)

    def _open_disk(self, inode: int) -> OpenDisk:
        node = self._point_of(inode)
        self.leases.take(node.point)
        slot = base_and_slot(inode)[1]
        disk = self.files_of(node).at(slot)
        if disk is None:
            raise PointNotFound(f"point {node.point} has no file in slot {slot}")
        record = disk[0]
        opened = OpenDisk(node.point, record.label, self.reader.disk(record))
        self._disks[inode] = opened
        return opened

    @property
    def cached_bytes(self) -> int:
        """Size of the decoded chunks in the cache."""
        return self.reader.cached_bytes

    @property
    def open_points(self) -> int:
        """Number of points with open files, in all workers."""
        return len(self._open_counts.points())

    def _close_files(self, point: PointId) -> None:
        disks = {inode for inode, opened in list(self._disks.items()) if opened.point == point}
        slices = {inode for inode, owner in list(self._slices.items()) if owner == point}
        for inode in disks | slices:
            self._disks.pop(inode, None)
            self._slices.pop(inode, None)
            if self._requests is not None:
                self._requests.drop_file(inode)
