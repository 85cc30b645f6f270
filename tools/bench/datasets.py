"""Disks, repositories and qcow2 chains to measure; each is created at its first use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from tools.bench.content import BLOCK, Content
from tools.bench.debian import mounted_root
from tools.bench.footprint import CatalogUse, catalog_use
from tools.bench.overlays import overlay_of, thin_overlay
from tools.bench.programs import run
from tools.bench.real import apply_delta, make_real, points_of
from tools.bench.sizes import FULL, Sizes
from tools.bench.take import capturing, in_memory, new_repository

_DELTA_PARTS: Final = 50
"""A delta rewrites one block of 50: 2 %."""
_SMALL_DELTA_PARTS: Final = 100
_REWRITTEN: Final = 16
"""Number of blocks that each point of the deep chain rewrites: 1 MiB."""
_FILE_BYTES: Final = 8192
"""Average size of a small file; the file system is four times the size of all files."""
_SMALLEST_EXT4: Final = 64 << 20
_SPARE_INODES: Final = 1000
_FOLDER_FILES: Final = 200


class DatasetUnavailable(CbtfsError):
    """Raised if a data set cannot be created on this machine."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A disk as a repository of points and as a qcow2 chain of the same depth."""

    image: Path
    """Image of the disk at the newest point."""
    repository: Path
    first_overlay: Path
    newest_overlay: Path


@dataclass(frozen=True, slots=True)
class PartitionedDisk:
    """A disk with one partition, with one point."""

    repository: Path
    partition: Extent


@dataclass(frozen=True, slots=True)
class RawChain:
    """A disk of random bytes: all its chunks are stored raw."""

    image: Path
    repository: Path
    after_full: CatalogUse
    after_deltas: CatalogUse


@dataclass(frozen=True, slots=True)
class DeepChain:
    """A disk with many points, each of which rewrote the same blocks."""

    repository: Path
    blocks: Sequence[int]
    points: int
    folder: Path

    def overlay(self, depth: int) -> Path:
        """Return the qcow2 image of point *depth*, from 1."""
        return self.folder / f"{depth - 1}.qcow2"


@dataclass(frozen=True, slots=True)
class RealChain:
    """A Debian root file system, as a repository of points and as a qcow2 chain."""

    chain: Chain
    points: int
    changed_blocks: int
    """Number of changed blocks in all incremental points."""


@dataclass(frozen=True, slots=True)
class ThinDisk:
    """A sparse image and the numbers of its written blocks."""

    image: Path
    blocks: Sequence[int]

    def rewrite(self, content: Content, count: int) -> list[int]:
        """Rewrite *count* of the written blocks; return their numbers."""
        changed = content.some_of(self.blocks, min(count, len(self.blocks)))
        with self.image.open("r+b") as file:
            for block in changed:
                file.seek(block * BLOCK)
                file.write(content.block("text" if block % 2 else "random"))
        return changed


class Datasets:
    """All data sets of a run, below *folder*."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder = folder
        self.sizes = sizes

    @cached_property
    def mixed(self) -> Chain:
        """The mixed disk and its deltas of 2 %."""
        folder = self._new("mixed")
        image, content = folder / "disk.raw", Content("mixed")
        with image.open("wb") as file:
            for kind in content.kinds(self.sizes.disk):
                file.write(content.block(kind))
        first = overlay = folder / "0.qcow2"
        run(["qemu-img", "convert", "-O", "qcow2", image, first])
        repository = new_repository(folder / "repository")
        with capturing(repository, image) as take:
            take(None)
            for index in range(1, self.sizes.deltas + 1):
                changed = write_delta(image, content, _DELTA_PARTS)
                take(changed)
                overlay = overlay_of(overlay, folder / f"{index}.qcow2", image, changed)
        return Chain(image, repository, first, overlay)

    @cached_property
    def partitioned(self) -> PartitionedDisk:
        """A disk whose only partition has an eighth of the size and the mix of the mixed disk."""
        folder = self._new("partitioned")
        image, content = folder / "disk.raw", Content("partitioned")
        partition = Extent(1 << 20, self.sizes.disk // 8)
        with image.open("wb") as file:
            file.truncate(partition.end + (1 << 20))
        sectors = f"start={partition.start // 512}, size={partition.length // 512}"
        run(["sh", "-c", 'echo "$1" | sfdisk --quiet --label gpt "$0"', image, sectors])
        with image.open("r+b") as file:
            file.seek(partition.start)
            for kind in content.kinds(partition.length):
                file.write(content.block(kind))
        repository = new_repository(folder / "repository")
        with capturing(repository, image) as take:
            take(None)
        return PartitionedDisk(repository, partition)

    @cached_property
    def raw(self) -> RawChain:
        """The random disk and its deltas of 1 %."""
        folder = self._new("raw")
        image, content = folder / "disk.raw", Content("raw")
        with image.open("wb") as file:
            for _ in range(self.sizes.disk // BLOCK):
                file.write(content.block("random"))
        repository = new_repository(folder / "repository")
        with capturing(repository, image) as take:
            take(None)
        after_full = catalog_use(repository)
        with capturing(repository, image) as take:
            for _ in range(self.sizes.deltas):
                take(write_delta(image, content, _SMALL_DELTA_PARTS, "random"))
        return RawChain(image, repository, after_full, catalog_use(repository))

    @cached_property
    def deep(self) -> DeepChain:
        """The chain of many points, each of which rewrites the same few blocks."""
        folder = self._new("deep")
        image, content = folder / "disk.raw", Content("deep")
        with image.open("wb") as file:
            for kind in content.kinds(self.sizes.deep_disk):
                file.write(content.block(kind))
        blocks = content.some_of(range(self.sizes.deep_disk // BLOCK), _REWRITTEN)

        def rewrite() -> None:
            with image.open("r+b") as file:
                for number, block in enumerate(blocks):
                    file.seek(block * BLOCK)
                    file.write(content.block("text" if number % 2 else "random"))

        rewrite()  # the first point gets the same mix of text and noise as the last one
        run(["qemu-img", "convert", "-O", "qcow2", image, folder / "0.qcow2"])
        points = self.sizes.depths[-1]
        repository = folder / "repository"
        with in_memory(repository) as path, capturing(new_repository(path), image) as take:
            take(None)
            for index in range(1, points):
                rewrite()
                take(blocks)
                thin_overlay(folder, index, image, blocks)
        image.unlink()
        return DeepChain(repository, blocks, points, folder)

    @cached_property
    def real(self) -> RealChain:
        """The Debian disk.

        Raises DatasetUnavailable if it cannot be created or is too large for this form.
        """
        if self.sizes is not FULL:
            raise DatasetUnavailable(
                f"the disk of 2 GiB is too large for the {self.sizes.name} form"
            )
        try:
            cached = make_real()
        except CbtfsError as exc:
            raise DatasetUnavailable(str(exc)) from exc
        folder = self._new("real")
        image, first = folder / "disk.raw", folder / "0.qcow2"
        run(["cp", "--sparse=always", cached / "disk.raw", image])
        run(["qemu-img", "convert", "-O", "qcow2", image, first])
        repository = new_repository(folder / "repository")
        overlay, count = first, 0
        with capturing(repository, image) as take:
            take(None)
            for index in range(1, points_of(cached)):
                changed = apply_delta(cached, index, image)
                count += len(changed)
                take(changed)
                overlay = overlay_of(overlay, folder / f"{index}.qcow2", image, changed)
        return RealChain(Chain(image, repository, first, overlay), points_of(cached), count)

    @cached_property
    def files(self) -> Chain:
        """A disk with an ext4 file system of many small files, with one point."""
        folder = self._new("files")
        image, content = folder / "disk.raw", Content("files")
        with image.open("wb") as file:
            file.truncate(max(self.sizes.files * _FILE_BYTES * 4, _SMALLEST_EXT4))
        inodes = self.sizes.files + _SPARE_INODES
        run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "-N", str(inodes), image])
        with mounted_root(image, folder / "root") as root:
            write_files(root, content, self.sizes.files)
        first = folder / "0.qcow2"
        run(["qemu-img", "convert", "-O", "qcow2", image, first])
        repository = new_repository(folder / "repository")
        with capturing(repository, image) as take:
            take(None)
        return Chain(image, repository, first, first)

    @cached_property
    def large(self) -> ThinDisk:
        """The large disk; most of its blocks were never written."""
        return self.thin("large", self.sizes.large_disk, self.sizes.large_data)

    def thin(self, name: str, size: int, data: int) -> ThinDisk:
        """Create a disk of *size* bytes with *data* bytes, scattered in runs of 1 MiB."""
        image, content = self._new(name) / "disk.raw", Content("large")
        kinds = [kind for kind in content.kinds(data * 2) if kind != "zero"]
        run_blocks = (1 << 20) // BLOCK
        stride = size // BLOCK // max(len(kinds) // run_blocks, 1)
        blocks = [at // run_blocks * stride + at % run_blocks for at in range(len(kinds))]
        with image.open("wb") as file:
            file.truncate(size)
            for block, kind in zip(blocks, kinds, strict=True):
                file.seek(block * BLOCK)
                file.write(content.block(kind))
        return ThinDisk(image, blocks)

    def _new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def write_delta(image: Path, content: Content, parts: int, kind: str | None = None) -> list[int]:
    """Rewrite one block of each *parts* blocks of *image*; return their numbers."""
    count = image.stat().st_size // BLOCK
    changed = content.some_of(range(count), count // parts)
    with image.open("r+b") as file:
        for block in changed:
            file.seek(block * BLOCK)
            file.write(content.mixed() if kind is None else content.block(kind))
    return changed


def write_files(root: Path, content: Content, count: int) -> None:
    """Write *count* small files in folders, like a source tree or a mail spool."""
    text = content.block("text") * 2
    noise = content.block("random")
    for number in range(count):
        folder = root / f"{number // _FOLDER_FILES:04}"
        if number % _FOLDER_FILES == 0:
            folder.mkdir()
        size = number * 7919 % (_FILE_BYTES * 2)
        data = text if number % 4 else noise
        at = number * 104_729 % (BLOCK - size)
        (folder / f"{number:06}").write_bytes(data[at : at + size])
