"""The point below an overlay: verified before anything is started over it."""

from typing import Final

from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.core.names import printable
from cbtfs.core.overlay import Overlay
from cbtfs.errors import PointNotFound, SourceMismatch
from cbtfs.qemu.objects import require_intact
from cbtfs.reader import Reader
from cbtfs.store.pins import load_pins
from cbtfs.store.repository import Repository

_FIRST_BYTES: Final = 4096
"""Bytes of each disk that are read: the sector by which firmware and partition tables start."""


def load_base(repository: Repository, overlay: Overlay) -> Manifest:
    """Return the point of *overlay*, of which no object is known to be missing or corrupt.

    Raises:
        PointNotFound: the point, or the pin that keeps it, is gone.
        SourceMismatch: the disks of the point are not those of the overlay.
        ChunkMissing: an object of the point, or its pack, is missing.
        DataCorrupt: an object of the point is known to be corrupt.
    """
    if all(pin.id != overlay.id for pin in load_pins(repository.path)):
        raise PointNotFound(
            f"the pin of overlay {overlay.name} is gone, so its point is not kept: create a new "
            "overlay"
        )
    try:
        manifest = repository.points.read_manifest(overlay.point)
    except PointNotFound as exc:
        raise PointNotFound(
            f"{exc}, and overlay {overlay.name} needs it: run 'cbtfs unforget {overlay.point}'"
        ) from exc
    disks_of(overlay, manifest)
    require_intact(repository, manifest)
    reader = Reader(repository, cache_bytes=0)
    for disk in disks_of(overlay, manifest):
        reader.disk(disk).read(0, min(disk.size, _FIRST_BYTES))
    return manifest


def disks_of(overlay: Overlay, manifest: Manifest) -> list[DiskRecord]:
    """Return the disks of the point that are those of *overlay*, in their order.

    Raises:
        SourceMismatch: a disk has another size or content.
    """
    by_id = {disk.id: disk for disk in manifest.of_kind("disk")}
    disks = []
    for expected in overlay.disks:
        disk = by_id.get(expected.id)
        if disk is None or (disk.size, disk.root) != (expected.size, expected.root):
            raise SourceMismatch(
                f"disk {printable(expected.label)} of point {manifest.point} is not the one that "
                f"overlay {overlay.name} was created over: its writes do not belong to it"
            )
        disks.append(disk)
    return disks
