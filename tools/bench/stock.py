"""Disks, repositories and qcow2 chains that rows measure: made once, when first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from cbtfs.ingest.point import DiskInput, VmInput, take_point
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.store.repository import Repository, create_repository, new_settings, writing
from tools.bench.content import BLOCK, Content
from tools.bench.footprint import CatalogUse, catalog_use
from tools.bench.programs import run
from tools.bench.servers import qemu_exported
from tools.bench.sizes import Sizes

VM: Final = "vm"
DISK: Final = "disk"
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DELTA_PARTS: Final = 50
"""A delta rewrites one block in so many: 2 %."""
_SMALL_DELTA_PARTS: Final = 100


@dataclass(frozen=True, slots=True)
class Chain:
    """One disk as a repository of points and, for most, as a qcow2 chain of the same depth."""

    image: Path
    """As it is at the newest point."""
    repository: Path
    first_overlay: Path
    newest_overlay: Path


@dataclass(frozen=True, slots=True)
class RawChain:
    """A disk of random bytes: every chunk of it is stored raw."""

    image: Path
    repository: Path
    after_full: CatalogUse
    after_deltas: CatalogUse


@dataclass(frozen=True, slots=True)
class DeepChain:
    """A disk of which every point rewrote the same blocks."""

    repository: Path
    blocks: Sequence[int]
    points: int


class Stock:
    """What is measured, below *folder*."""

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
        repository = _new_repository(folder / "repository")
        with capturing(repository, image) as take:
            take(None)
            for index in range(1, self.sizes.deltas + 1):
                changed = write_delta(image, content, _DELTA_PARTS)
                take(changed)
                overlay = _overlay(overlay, folder / f"{index}.qcow2", image, changed)
        return Chain(image, repository, first, overlay)

    @cached_property
    def raw(self) -> RawChain:
        """The random disk and its deltas of 1 %."""
        folder = self._new("raw")
        image, content = folder / "disk.raw", Content("raw")
        with image.open("wb") as file:
            for _ in range(self.sizes.disk // BLOCK):
                file.write(content.block("random"))
        repository = _new_repository(folder / "repository")
        with capturing(repository, image) as take:
            take(None)
        after_full = catalog_use(repository)
        with capturing(repository, image) as take:
            for _ in range(self.sizes.deltas):
                take(write_delta(image, content, _SMALL_DELTA_PARTS, "random"))
        return RawChain(image, repository, after_full, catalog_use(repository))

    @cached_property
    def deep(self) -> DeepChain:
        """The chain of many points, each of which rewrote the same few blocks."""
        folder = self._new("deep")
        image, content = folder / "disk.raw", Content("deep")
        count = self.sizes.disk // BLOCK
        blocks = content.some_of(range(count), self.sizes.rewritten)
        with image.open("wb") as file:
            file.truncate(self.sizes.disk)
        repository = _new_repository(folder / "repository")
        with capturing(repository, image) as take:
            for index in range(self.sizes.depth):
                with image.open("r+b") as file:
                    for number, block in enumerate(blocks):
                        file.seek(block * BLOCK)
                        file.write(content.block("text" if number % 2 else "random"))
                take(blocks if index else None)
        image.unlink()
        return DeepChain(repository, blocks, self.sizes.depth)

    @cached_property
    def large(self) -> Path:
        """The large disk, most of which was never written."""
        folder = self._new("large")
        image, content = folder / "disk.raw", Content("large")
        kinds = content.kinds(self.sizes.large_data * 2)
        stride = self.sizes.large_disk // (len(kinds) * BLOCK)
        run_blocks = (1 << 20) // BLOCK
        with image.open("wb") as file:
            file.truncate(self.sizes.large_disk)
            for index, kind in enumerate(kinds):
                if kind != "zero":
                    at = index // run_blocks * run_blocks * stride + index % run_blocks
                    file.seek(at * BLOCK)
                    file.write(content.block(kind))
        return image

    def _new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def write_delta(image: Path, content: Content, parts: int, kind: str | None = None) -> list[int]:
    """Rewrite one block in *parts* of *image*; which ones."""
    count = image.stat().st_size // BLOCK
    changed = content.some_of(range(count), count // parts)
    with image.open("r+b") as file:
        for block in changed:
            file.seek(block * BLOCK)
            file.write(content.mixed() if kind is None else content.block(kind))
    return changed


def _new_repository(path: Path) -> Path:
    create_repository(path, new_settings(BLOCK, level=1))
    return path


@contextmanager
def capturing(path: Path, image: Path) -> Iterator[Take]:
    """A way to take points of *image*: in full, or by the blocks that changed."""
    with writing(path) as repository:
        yield Take(repository, image)


class Take:
    """Takes one point of an image after the other, a minute apart."""

    def __init__(self, repository: Repository, image: Path) -> None:
        self._repository = repository
        self._image = image
        with repository.catalog.view() as view:
            self._taken = len(view.point_ids())

    def __call__(self, changed: Sequence[int] | None) -> None:
        image = ImageSource(self._image)
        listed = None
        if changed is not None:
            listed = ListedSource(image, ChangeList(tuple((b * BLOCK, BLOCK) for b in changed)))
        objects = self._repository.object_writer()
        try:
            take_point(
                self._repository,
                objects,
                VmInput(VM),
                [DiskInput(DISK, listed or image, identity=DISK)],
                moment=_EPOCH + timedelta(minutes=self._taken),
                want="auto" if changed is None else "incremental",
            )
        finally:
            objects.close()
            image.close()
        self._taken += 1


def _overlay(backing: Path, overlay: Path, image: Path, changed: Sequence[int]) -> Path:
    """A new qcow2 image over *backing* that holds the blocks *changed* of *image*."""
    backed = ["-b", backing.name, "-F", "qcow2"]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backed, overlay], folder=overlay.parent)
    with (
        qemu_exported(overlay, overlay.with_name("export"), is_writable=True) as export,
        image.open("rb") as source,
        export.open("r+b", buffering=0) as target,
    ):
        for block in changed:
            target.seek(block * BLOCK)
            target.write(os.pread(source.fileno(), BLOCK, block * BLOCK))
    return overlay
