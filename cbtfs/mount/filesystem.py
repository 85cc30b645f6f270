"""What one worker answers with: names, attributes and bytes by inode number. It may block."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cbtfs import listing
from cbtfs.cache import Cache
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, PointState, decode_manifest
from cbtfs.core.names import printable
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound
from cbtfs.mount.entry import Entry
from cbtfs.mount.files import VM_JSON, PointFiles, encode_vm_json, files_of
from cbtfs.mount.inodes import (
    BY_ID,
    BY_ID_BASE,
    EXTRA,
    FORMER,
    POINT_LINK,
    ROOT,
    SELF,
    base_and_slot,
    inode_base_of,
    inode_of,
)
from cbtfs.mount.leases import Leases
from cbtfs.mount.listed import listed_vms
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.mount.tree import DirectoryTree, PointNode, VmNode, updated_tree
from cbtfs.native import Chunks, Requests
from cbtfs.reader import Disk, Reader
from cbtfs.store.repository import Repository

REFRESH_SECONDS: Final = 1.0
"""How often it is looked whether the catalog is still the same file."""
_CACHED_POINTS: Final = 512
"""Points whose manifests stay decoded."""
_CACHED_JSON_BYTES: Final = 1 << 20
"""Of what vm.json holds: a listing asks for its size, and `ls -l` again."""


_TIME_LINK_PREFIX: Final = "@"
"""What begins the name of a link to a point that is looked for by its time."""


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A disk of a leased point."""

    point: PointId
    label: str
    disk: Disk


class FileSystem:
    """One repository as a file system; safe to use from several threads.

    Nothing here is needed by a later request: what a number means is found again from the
    catalog, and what is open from the counts that all workers share.
    """

    def __init__(self, repository: Repository, shared: OpenCounts) -> None:
        self._catalog = repository.catalog
        self._points = repository.points
        self._requests: Requests | None = None
        self._reader = Reader(repository, is_strict=False, on_leaves_dropped=self._drop_leaves)
        self._shared = shared
        self.leases = Leases(repository.points, shared, self._close_disks)
        self._disks: dict[int, OpenDisk] = {}
        self._files: Cache[PointId, PointFiles] = Cache(_CACHED_POINTS, lambda _: 1)
        self._documents: Cache[tuple[PointState, bool], bytes] = Cache(_CACHED_JSON_BYTES, len)
        """Each vm.json; a state names its point."""
        self._tree = DirectoryTree()
        self._version: bytes | None = None
        self._lock = threading.Lock()
        self._refreshed = time.monotonic()
        self.leases.take_all()
        self._current_tree()

    # ReadFallback that are answered without asking

    @property
    def chunks(self) -> Chunks:
        """What verifies and caches the bytes of chunks."""
        return self._reader.chunks

    def provide_leaves_to(self, requests: Requests) -> None:
        """Make known to *requests*, from now on, what reads of open disks take."""
        self._requests = requests

    def _drop_leaves(self) -> None:
        if self._requests is not None:
            self._requests.clear()

    def refresh(self) -> None:
        """Let go of packs that were removed: to be called every second or so."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        self._reader.refresh()
        self._refreshed = time.monotonic()

    # Names

    def _current_tree(self, *, is_missing: bool = False) -> DirectoryTree:
        """The tree as the catalog has it now: workers that are asked in turn agree.

        *is_missing* looks for another catalog at once, as something is not in this one.
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
        """The directory of that base; PointNotFound if there is none."""
        node = self._tree.by_base.get(base)
        if not isinstance(node, PointNode):
            node = self._current_tree().by_base.get(base)
        if node is None:
            node = self._current_tree(is_missing=True).by_base.get(base)
        if node is not None:
            return node
        for point in self._shared.points():
            if inode_base_of(point) == base:
                return PointNode(point, base, "")
        raise PointNotFound(f"no file has the number {base}")

    def entry(self, inode: int) -> Entry:
        """What has that number; PointNotFound if nothing has it."""
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
        files = self._files_of(node)
        if slot == EXTRA:
            return files.vm_json(len(self._vm_json(files)))
        found = files.at(slot)
        if found is None:
            raise PointNotFound(f"point {node.point} has no disk number {slot}")
        return found[1]

    def lookup(self, parent: int, name: str) -> Entry | None:
        """The entry of that name in a directory."""
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
            found = node.find(name)
            if found is not None:
                return found
            again = self._current_tree(is_missing=True).by_base.get(node.base)
            return again.find(name) if isinstance(again, VmNode) else None
        files = self._files_of(node)
        if name == VM_JSON:
            return files.vm_json(len(self._vm_json(files)))
        return files.find(name)

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        """Entries of a directory beyond offset *after*, each with its own offset."""
        if inode == ROOT:
            return self._current_tree().entries(after)
        if inode == inode_of(BY_ID_BASE):
            return self._current_tree().entries_by_id(after)
        node = self._node(base_and_slot(inode)[0])
        if isinstance(node, VmNode):
            return node.entries(after)
        files = self._files_of(node)
        # All of them are made here: whoever asks is in a thread that may wait, or fail.
        return iter(list(files.entries(lambda: len(self._vm_json(files)), after)))

    def target(self, inode: int) -> str:
        """Where the link of that number leads to."""
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
        raise PointNotFound("no link has that number")

    def _time_link(self, node: VmNode, name: str) -> Entry | None:
        """The link called `@-2d`, `@2026-11-20` or the like: to the point that it means now."""
        with self._catalog.view() as view:
            found = listing.requested(view, node.vm, name.removeprefix(_TIME_LINK_PREFIX))
        now = self._current_tree().by_base.get(node.base)
        point = now.node_of(found) if found is not None and isinstance(now, VmNode) else None
        return None if point is None else point.linked(name)

    # Files

    def _files_of(self, node: PointNode) -> PointFiles:
        def load() -> PointFiles:
            with self._catalog.view() as view:
                record = view.point(node.point)
            if record is not None:
                data = record.manifest
            elif self._shared.is_open(node.point):
                data = self._points.load_forgotten(node.point)
            else:
                raise PointNotFound(f"point {node.point} is gone")
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
                found = listing.with_state(view, point, files.manifest, record)
                return self._encoded(files.manifest, found.state, found.is_damaged)
        return self._encoded(files.manifest, self._points.load_state(point)[0], False)

    def _encoded(self, manifest: Manifest, state: PointState, is_damaged: bool) -> bytes:
        def encode() -> bytes:
            return encode_vm_json(manifest, state, is_damaged=is_damaged)

        return self._documents.load((state, is_damaged), encode)

    def _point_of(self, inode: int) -> PointNode:
        node = self._node(base_and_slot(inode)[0])
        if isinstance(node, VmNode):
            raise PointNotFound("a directory is no file")
        return node

    def open(self, inode: int) -> Entry:
        """Keep a file readable until close(), whatever becomes of its point; what it is."""
        node = self._point_of(inode)
        self.leases.open(node.point)
        try:
            return self.entry(inode)
        except BaseException:
            self.leases.close(node.point)
            raise

    def close(self, inode: int) -> None:
        """Let go of a file that was opened."""
        self.leases.close(self._point_of(inode).point)

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        """Make known what a read of an open disk takes; False if only read() can answer it."""
        if self._requests is None or base_and_slot(inode)[1] == EXTRA:
            return False
        opened = self._disks.get(inode) or self._open_disk(inode)
        for index, leaf in opened.disk.leaves(offset, length):
            self._requests.put_leaf(inode, index, leaf)
        return True

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview:
        """The bytes [offset, offset + length) of an open file, fewer only where it ends.

        DataCorrupt or ChunkMissing, which name point, disk, extent and chunk, if one of them
        cannot be proven.
        """
        if base_and_slot(inode)[1] == EXTRA:
            content = self._vm_json(self._files_of(self._point_of(inode)))
            return content[offset : offset + length]
        opened = self._disks.get(inode) or self._open_disk(inode)
        try:
            data = opened.disk.read(offset, length)
            return _require_length(data, opened.disk.size, offset, length)
        except (ChunkMissing, DataCorrupt) as exc:
            failure = ChunkMissing if isinstance(exc, ChunkMissing) else DataCorrupt
            raise failure(
                f"cannot read point {opened.point}, disk {printable(opened.label)}: {exc}"
            ) from exc

    def _open_disk(self, inode: int) -> OpenDisk:
        node = self._point_of(inode)
        self.leases.take(node.point)
        found = self._files_of(node).at(base_and_slot(inode)[1])
        if found is None:
            raise PointNotFound(f"point {node.point} has no such disk")
        record = found[0]
        opened = OpenDisk(node.point, record.label, self._reader.disk(record))
        self._disks[inode] = opened
        if self._requests is not None:
            self._requests.add_file(inode, record.size, record.block_size)
        return opened

    @property
    def cached_bytes(self) -> int:
        """Of decoded chunks."""
        return self._reader.cached_bytes

    @property
    def open_points(self) -> int:
        """Points that have open files, through whatever worker."""
        return len(self._shared.points())

    def _close_disks(self, point: PointId) -> None:
        for inode, opened in list(self._disks.items()):
            if opened.point == point:
                self._disks.pop(inode, None)
                if self._requests is not None:
                    self._requests.drop_file(inode)


def _require_length(
    data: bytes | memoryview, size: int, offset: int, length: int
) -> bytes | memoryview:
    """*data* if it has the length that was asked for: less would be the end of the file."""
    wanted = max(min(length, size - offset), 0)
    if len(data) != wanted:
        raise DataCorrupt(f"{wanted} bytes wanted at {offset}, {len(data)} read")
    return data
