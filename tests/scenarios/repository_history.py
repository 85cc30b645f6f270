"""A repository with an oracle: the expected content of every point, kept outside."""

import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Kind
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.prune.prune import prune
from cbtfs.prune.result import PruneResult
from cbtfs.prune.select import PruneLimits
from cbtfs.reader import Reader
from cbtfs.store.repository import reading, writing
from tests.make_points import BLOCK, commit_point, new_repository

PACK_BYTES: Final = 64 << 10
"""Small packs, so that a short history has many."""
EVERYTHING: Final = PruneLimits(unused_share=0.0)


def block(seed: int) -> bytes:
    """Return an incompressible block, the same for the same seed."""
    return random.Random(seed).randbytes(BLOCK)


def image(*seeds: int) -> bytes:
    """Return a disk with one block for each seed; zeros for 0."""
    return b"".join(block(seed) if seed else bytes(BLOCK) for seed in seeds)


class History:
    """Takes points, forgets them, prunes; knows the expected content of every point."""

    def __init__(self, path: Path, pack_size: int = PACK_BYTES) -> None:
        self.path = new_repository(path)
        self._pack_size = pack_size
        self.expected: dict[PointId, dict[str, bytes]] = {}
        self.manifests: dict[PointId, Manifest] = {}

    def add(
        self, content: bytes, *, vm: str = "vm", changed: Iterable[int] | None = None
    ) -> PointId:
        """Take a point of one disk; with *changed*, an incremental of these blocks."""
        lists = None if changed is None else {"disk": changed}
        with writing(self.path) as repository:
            manifest = commit_point(
                repository, {"disk": content}, vm=vm, changed=lists, pack_bytes=self._pack_size
            )
        self.expected[manifest.point] = {"disk": content}
        self.manifests[manifest.point] = manifest
        return manifest.point

    def forget(self, *points: PointId) -> None:
        with writing(self.path) as repository:
            repository.forget(points)
        for point in points:
            del self.expected[point]

    def prune(self, limits: PruneLimits = EVERYTHING, *, is_dry_run: bool = False) -> PruneResult:
        with writing(self.path) as repository:
            return prune(repository, limits, is_dry_run=is_dry_run, pack_bytes=self._pack_size)

    @contextmanager
    def copied(self, path: Path) -> Iterator["History"]:
        """Copy the repository to *path*; remove the copy at the end of the block."""
        shutil.copytree(self.path, path)
        history = copy(self)
        history.path = path
        history.expected, history.manifests = {**self.expected}, {**self.manifests}
        try:
            yield history
        finally:
            shutil.rmtree(path)

    def pack_bytes(self) -> int:
        """Return the size of all packs."""
        return sum(file.stat().st_size for file in (self.path / "packs").glob("*/*"))

    def packs_of(self, point: PointId) -> list[Path]:
        """Return the packs with the roots of the point; every point must have packs of its own."""
        with reading(self.path) as repository, repository.catalog.view() as view:
            packs = set()
            for disk in self.manifests[point].disks:
                height = Shape(disk.size, disk.block_size).height
                number = view.find(Kind.NODE, height, disk.root)
                location = None if number is None else view.location(number)
                assert location is not None
                record = view.pack(location.pack)
                assert record is not None
                packs.add(repository.packs.path(record.id))
            return sorted(packs)

    def verify(self) -> None:
        """Assert that exactly the expected points exist, with the expected content."""
        with reading(self.path) as repository:
            with repository.catalog.view() as view:
                assert set(view.point_ids()) == set(self.expected)
            for point, disks in self.expected.items():
                for record in self.manifests[point].disks:
                    content = Reader(repository).disk(record).read(0, record.size)
                    assert bytes(content) == disks[record.label]
