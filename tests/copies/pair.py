"""Two repositories: a history with known content, and the target of copies."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path

from cbtfs.cli.main import main
from cbtfs.copies.points import CopyResult, copy_points
from cbtfs.core.ids import PointId
from cbtfs.listing import points
from cbtfs.reader import Reader
from cbtfs.store.repository import reading, writing
from tests.make_points import new_repository
from tests.scenarios.repository_history import History


class Pair:
    """A source with an oracle, and a target."""

    def __init__(self, folder: Path) -> None:
        self.source = History(folder / "source")
        self.target = new_repository(folder / "target")

    def duplicate(self, folder: Path) -> "Pair":
        """Return a copy of both repositories in *folder*, for a test that changes them."""
        new = copy(self)
        new.source = copy(self.source)
        new.source.expected = {**self.source.expected}
        new.source.manifests = {**self.source.manifests}
        new.source.path = shutil.copytree(self.source.path, folder / "source")
        new.target = shutil.copytree(self.target, folder / "target")
        return new

    def copy(self, chosen: Sequence[PointId] | None = None) -> CopyResult:
        with ExitStack() as stack:
            source = stack.enter_context(reading(self.source.path))
            target = stack.enter_context(writing(self.target))
            with source.catalog.view() as view:
                known = list(points(view))
            wanted = [p for p in known if chosen is None or p.manifest.point in chosen]
            return copy_points(source, target, wanted)

    def command(self, *words: str) -> int:
        return main(["--repo", str(self.source.path), "copy", "--to", str(self.target), *words])

    def copied(self) -> set[PointId]:
        with reading(self.target) as repository:
            return repository.points.ids()

    def verify(self) -> None:
        """Compare every byte of the target with the captured image."""
        with reading(self.target) as repository:
            reader = Reader(repository)
            with repository.catalog.view() as view:
                known = list(points(view))
            assert {point.manifest.point for point in known} == repository.points.ids()
            for point in known:
                manifest = point.manifest
                assert not point.is_damaged
                for disk in manifest.disks:
                    data = reader.disk(disk).read(0, disk.size)
                    assert data == self.source.expected[manifest.point][disk.label]

    def manifests(self, path: Path) -> dict[str, bytes]:
        return {
            file.name: file.read_bytes()
            for file in (path / "points").iterdir()
            if file.suffix == "" and len(file.name) == 32
        }


def content(path: Path) -> dict[str, bytes]:
    """Return all files that are not derived from others."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.relative_to(path).parts[0] not in ("catalog", "locks", "reserve")
    }
