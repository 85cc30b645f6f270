"""Repositories with many points of many VMs, created by the ingest code of cbtfs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.source.base import Since, copy_into
from cbtfs.store.repository import writing
from tools.bench.content import BLOCK, Content
from tools.bench.take import DISK, in_memory, new_repository

_DISK_BYTES: Final = 16 << 30
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_BLOCK_STEP: Final = 7919
"""Distance of the blocks that a VM writes: each block is in a different leaf."""


class WrittenDisk:
    """A source in memory: a thin disk with a few written blocks."""

    is_local = False

    def __init__(self, *, is_kept: bool, size: int = _DISK_BYTES) -> None:
        """Create an empty disk of *size* bytes.

        With *is_kept* it also keeps blocks from before the last write.
        """
        self._is_kept = is_kept
        self.size = size
        self.blocks: dict[int, bytes] = {}
        self._fresh: list[int] = []

    def write(self, block: int, data: bytes) -> None:
        if not self._is_kept:
            self.blocks.clear()
        self.write_all({block: data})

    def write_all(self, blocks: Mapping[int, bytes]) -> None:
        """Write *blocks*, which are the changes since the last write."""
        self.blocks |= blocks
        self._fresh = sorted(blocks)

    def changed(self, since: Since) -> Sequence[Extent]:
        return [Extent(block * BLOCK, BLOCK) for block in self._fresh]

    def allocated(self) -> Sequence[Extent]:
        return [Extent(block * BLOCK, BLOCK) for block in sorted(self.blocks)]

    def read(self, extent: Extent) -> bytes:
        numbers = range(extent.start // BLOCK, extent.end // BLOCK)
        return b"".join(self.blocks.get(number, bytes(BLOCK)) for number in numbers)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """Do nothing: no other process writes to the disk."""

    def close(self) -> None:
        """Do nothing: the disk has no open files."""

    def save(self, image: Path) -> None:
        """Write the disk to a sparse file."""
        with image.open("wb") as file:
            file.truncate(self.size)
            for block, data in self.blocks.items():
                file.seek(block * BLOCK)
                file.write(data)


def vm_name(number: int) -> str:
    return f"vm{number:04}"


def make_fleet(folder: Path, points: int, vms: int) -> WrittenDisk:
    """Create a repository in *folder* with one new block per point; return the disk of VM 0."""
    content = Content("fleet")
    disks = [WrittenDisk(is_kept=not number) for number in range(vms)]
    with (
        in_memory(folder / "repository") as path,
        writing(new_repository(path)) as repository,
    ):
        objects = repository.object_writer()
        for number in range(points):
            disk = disks[number % vms]
            disk.write(number * _BLOCK_STEP % (_DISK_BYTES // BLOCK), content.block("text"))
            ingest_point(
                repository,
                objects,
                VmInput(vm_name(number % vms)),
                [DiskInput(DISK, disk, identity=DISK)],
                PointOptions(_EPOCH + timedelta(minutes=number)),
            )
        objects.close()
    return disks[0]
