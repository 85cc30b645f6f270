"""The images in the directory `as` of points: qcow2 and VMDK, made up when they are read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from cbtfs.cache import Cache
from cbtfs.core.extent import Extent
from cbtfs.core.filenames import QCOW2, RAW, SINCE, VMDK
from cbtfs.core.manifest import DiskRecord
from cbtfs.core.names import printable
from cbtfs.difference import differing
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.mount.entry import BY_ID_DIRECTORY, Entry, EntryType, listable_name
from cbtfs.mount.files import PointFiles
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.inodes import FIRST_DISK, MAX_SLOT, Directory, inode_of
from cbtfs.mount.tree import PointNode
from cbtfs.mount.view_bases import View, ViewBases
from cbtfs.reader import Disk
from cbtfs.views.qcow2 import Bitmap, Qcow2Image, bitmap_granularity
from cbtfs.views.vmdk import encode_vmdk

_CACHED_IMAGES: Final = 32
_MAX_CONTENT_ID: Final = 0xFFFFFFFD


class Content(Protocol):
    """The bytes of a file that is made up."""

    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Bytes:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


class Images:
    """Names, attributes and bytes of images. Safe to use from several threads."""

    def __init__(self, file_system: FileSystem, bases: ViewBases, mountpoint: str) -> None:
        self._file_system = file_system
        self._bases = bases
        self._mountpoint = mountpoint
        self._contents: Cache[int, Content] = Cache(_CACHED_IMAGES, lambda _: 1)

    def find(self, node: PointNode, name: str) -> Entry | None:
        """Return the image with that name in `as` of a point, or None."""
        files = self._file_system.files_of(node)
        for slot, stem in _disks(files):
            for view in (_images(node), _descriptors(node)):
                if name == stem + _suffix(view):
                    return self.entry(view, slot)
        return self._find_since(files, node, name)

    def _find_since(self, files: PointFiles, node: PointNode, name: str) -> Entry | None:
        """Return the image whose name contains an earlier point: its name, or any text for it."""
        stem = name.removesuffix(QCOW2)
        for slot, disk_stem in _disks(files):
            prefix = disk_stem + SINCE
            if stem != name and stem.startswith(prefix):
                image = self._since(files, node, slot, stem.removeprefix(prefix))
                if image is not None:
                    return image
        return None

    def _since(self, files: PointFiles, node: PointNode, slot: int, which: str) -> Entry | None:
        vm = self._file_system.tree.vm(files.manifest.vm.id)
        if vm is None:
            return None
        exact = vm.points.get(which)
        since = exact or self._file_system.requested(vm, which)
        if since is None or not self._bases.is_earlier(since, node):
            return None
        return self.entry(View(node, Directory.IMAGES, since), slot, is_volatile=exact is None)

    def entries(self, node: PointNode, after: int) -> Iterator[tuple[Entry, int]]:
        """Yield the images of whole disks after offset *after*, each with its offset."""
        slots = list(_disks(self._file_system.files_of(node)))
        for view, first in ((_images(node), 0), (_descriptors(node), MAX_SLOT)):
            for slot, _ in slots:
                if first + slot > after and (entry := self.entry(view, slot)) is not None:
                    yield entry, first + slot

    def entry(self, view: View, slot: int, *, is_volatile: bool = False) -> Entry | None:
        """Return the entry of an image, or None if the disk has no such image."""
        content = self.content(view, slot)
        if content is None:
            return None
        files = self._file_system.files_of(view.node)
        stem = files.disks[slot - FIRST_DISK].name.removesuffix(RAW)
        return Entry(
            stem + _suffix(view),
            *(inode_of(view.base, slot), EntryType.FILE, files.time_ns),
            size=content.size,
            allocated_bytes=content.size,
            is_content_permanent=True,
            is_volatile=is_volatile,
        )

    def content(self, view: View, slot: int) -> Content | None:
        """Return the bytes of an image, or None if the disk has no such image."""
        at_slot = self._file_system.files_of(view.node).at(slot)
        if at_slot is None or at_slot[0].kind != "disk":
            return None
        record, entry = at_slot
        try:
            return self._contents.load(
                inode_of(view.base, slot), lambda: self._made(view, record, entry.name)
            )
        except ValueError:
            return None

    def _made(self, view: View, record: DiskRecord, name: str) -> Content:
        """Return an image of a disk.

        Raises:
            ValueError: the format cannot have an image of that disk.
        """
        path = self._path(view.node, name)
        if view.directory is Directory.DESCRIPTORS:
            content_id = int.from_bytes(record.root[:4], "big") % _MAX_CONTENT_ID + 1
            return _Bytes(encode_vmdk(record.size, path, content_id))
        disk = self._file_system.reader.disk(record)
        bitmap = None if view.since is None else self._bitmap(view.since, disk)
        naming = _Naming(view.node, record.label)
        return Qcow2Image(record.size, path, lambda area: naming.run(disk.data_in(area)), bitmap)

    def _path(self, node: PointNode, name: str) -> bytes:
        """Return the path of a disk, which stays valid when the VM gets another name."""
        manifest = self._file_system.files_of(node).manifest
        directory = node.name or listable_name(manifest.name)
        parts = (self._mountpoint, BY_ID_DIRECTORY, manifest.vm.id, directory, name)
        return os.fsencode("/".join(parts))

    def _bitmap(self, since: PointNode, disk: Disk) -> Bitmap:
        manifest = self._file_system.files_of(since).manifest
        record = next(
            (candidate for candidate in manifest.disks if candidate.id == disk.record.id), None
        )
        unit = disk.record.block_size
        if record is None or record.block_size != unit or disk.size == 0:
            raise ValueError("the disk has no bitmap of the changes since that point")
        earlier = self._file_system.reader.disk(record)
        naming = _Naming(since, record.label)
        return Bitmap(
            f"since-{since.name or listable_name(manifest.name)}",
            bitmap_granularity(disk.size, unit),
            lambda area: naming.run(differing(earlier, disk, area)),
        )


def _disks(files: PointFiles) -> Iterator[tuple[int, str]]:
    """Yield slot and name without suffix of each disk; small files have no images."""
    pairs = zip(files.manifest.disks, files.disks, strict=True)
    for slot, (disk, entry) in enumerate(pairs, FIRST_DISK):
        if disk.kind == "disk":
            yield slot, entry.name.removesuffix(RAW)


def _images(node: PointNode) -> View:
    return View(node, Directory.IMAGES)


def _descriptors(node: PointNode) -> View:
    return View(node, Directory.DESCRIPTORS)


def _suffix(view: View) -> str:
    if view.directory is Directory.DESCRIPTORS:
        return VMDK
    return QCOW2 if view.since is None else f"{SINCE}{view.since.name}{QCOW2}"


@dataclass(frozen=True, slots=True)
class _Naming:
    """Adds point and disk to the errors of an iterator."""

    node: PointNode
    label: str

    def run(self, extents: Iterator[Extent]) -> Iterator[Extent]:
        try:
            yield from extents
        except (ChunkMissing, DataCorrupt) as exc:
            failure = ChunkMissing if isinstance(exc, ChunkMissing) else DataCorrupt
            raise failure(
                f"cannot read the block map of point {self.node.point}, disk "
                f"{printable(self.label)}: {exc}"
            ) from exc
