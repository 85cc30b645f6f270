"""A failed run commits nothing, and the next run succeeds."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceMismatch, SourceUnavailable, UsageError
from cbtfs.source.base import DiskSource
from cbtfs.source.image import ImageSource
from cbtfs.source.wrappers import ChangingSource, WrappedSource
from cbtfs.store.repository import writing
from tests.ingest.fake_disks import (
    BREAK_AFTER,
    Breaking,
    broken,
    disk_of,
    ingest,
    ingest_into,
    packs,
    points,
    read_disk,
)
from tests.make_points import BLOCK, new_repository, read_point

CONTENT = bytes(range(1, 252)) * 4000
"""Three leaves."""
CHANGED = b"changed" + CONTENT[7:]


class Short(WrappedSource):
    """Reports a size larger than the real one."""

    @property
    def size(self) -> int:
        return self._source.size + BLOCK


class Curtailed(WrappedSource):
    """Returns one byte too few from the second leaf on."""

    def read(self, extent: Extent) -> bytes | memoryview:
        data = self._source.read(extent)
        return data[:-1] if extent.start >= 64 * BLOCK else data


class Moved(WrappedSource):
    """Has changed by the time of confirm()."""

    def confirm(self) -> None:
        raise SourceMismatch("it changed")


def short(source: DiskSource) -> DiskSource:
    return Short(source)


def curtailed(source: DiskSource) -> DiskSource:
    return Curtailed(source)


def moved(source: DiskSource) -> DiskSource:
    return Moved(source)


def breaks_at_once(source: DiskSource) -> DiskSource:
    return broken(source, 0)


def breaks_in_the_last_leaf(source: DiskSource) -> DiskSource:
    return broken(source, source.size - 1)


def has_a_bug(source: DiskSource) -> DiskSource:
    return Breaking(source, RuntimeError("a bug"), BREAK_AFTER)


def is_interrupted(source: DiskSource) -> DiskSource:
    return Breaking(source, InterruptedError("a signal"), BREAK_AFTER)


FAILURES: list[tuple[Callable[[DiskSource], DiskSource], type[Exception], str]] = [
    (short, SourceUnavailable, "disk A: cannot read up to byte"),
    (curtailed, SourceUnavailable, "disk A: short read: "),
    (moved, SourceMismatch, "disk A: it changed"),
    (breaks_at_once, SourceUnavailable, "disk A: the cable is out"),
    (breaks_in_the_last_leaf, SourceUnavailable, "disk A: the cable is out"),
    (has_a_bug, RuntimeError, "a bug"),
    (is_interrupted, InterruptedError, "a signal"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A repository with one point."""
    path = new_repository(tmp_path / "repository")
    ingest(path, {"A": disk_of(CONTENT).take_snapshot()})
    return path


@pytest.mark.parametrize(("fail", "error", "message"), FAILURES)
def test_a_failed_run_leaves_the_points_unchanged(
    path: Path, fail: Callable[[DiskSource], DiskSource], error: type[Exception], message: str
) -> None:
    before = points(path), packs(path)

    with pytest.raises(error, match=message):
        ingest(path, {"A": fail(disk_of(CHANGED).take_snapshot())}, want="full")

    assert (points(path), packs(path)) == before


@pytest.mark.parametrize(("fail", "error", "message"), FAILURES)
def test_after_a_failed_run_the_next_one_succeeds(
    path: Path, fail: Callable[[DiskSource], DiskSource], error: type[Exception], message: str
) -> None:
    with pytest.raises(error):
        ingest(path, {"A": fail(disk_of(CHANGED).take_snapshot())}, want="full")

    manifest = ingest(path, {"A": disk_of(CHANGED).take_snapshot()}, want="full")

    assert read_point(path, manifest) == {"A": CHANGED}


def test_a_failed_run_is_never_a_base(path: Path) -> None:
    (first,) = (name for name in points(path) if "." not in name)
    with pytest.raises(SourceUnavailable):
        ingest(path, {"A": broken(disk_of(CHANGED).take_snapshot())}, want="full")

    manifest = ingest(path, {"A": disk_of(CHANGED).take_snapshot()}, want="full")

    assert manifest.disks[0].parent == first


def test_an_open_repository_can_be_used_after_a_failed_run(path: Path) -> None:
    with writing(path) as repository:
        with pytest.raises(SourceUnavailable):
            ingest_into(repository, {"A": broken(disk_of(CHANGED).take_snapshot())}, want="full")

        manifest = ingest_into(repository, {"A": disk_of(CHANGED).take_snapshot()}, want="full")

    assert read_point(path, manifest) == {"A": CHANGED}


def test_a_second_disk_that_fails_discards_the_first(path: Path) -> None:
    before = points(path)
    sources: dict[str, DiskSource] = {
        "A": disk_of(CHANGED).take_snapshot(),
        "B": broken(disk_of(CONTENT).take_snapshot()),
    }

    with pytest.raises(SourceUnavailable, match="disk B"):
        ingest(path, sources)

    assert points(path) == before


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


class WrittenWhileRead(ImageSource):
    """An image that is modified when its last byte is read."""

    def __init__(self, path: Path, write: Callable[[Path], None]) -> None:
        super().__init__(path)
        self._path, self._write = path, write

    def read(self, extent: Extent) -> bytes:
        data = super().read(extent)
        self._write_at_end(extent)
        return data

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        super().read_into(extent, parts)
        self._write_at_end(extent)

    def _write_at_end(self, extent: Extent) -> None:
        if extent.end == self.size:
            self._write(self._path)


def test_a_file_that_changes_while_it_is_read_is_not_committed(path: Path, tmp_path: Path) -> None:
    before = points(path)
    image = tmp_path / "disk.raw"
    image.write_bytes(CONTENT)

    with (
        closing(WrittenWhileRead(image, rewrite)) as source,
        pytest.raises(SourceMismatch, match=r"disk A: .*changed while it was read") as caught,
    ):
        ingest(path, {"A": source})

    assert caught.value.exit_code == 33
    assert points(path) == before


def test_a_file_that_may_change_while_it_is_read_is_committed(path: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(CONTENT)

    with closing(WrittenWhileRead(image, rewrite)) as source:
        manifest = ingest(path, {"A": ChangingSource(source)})

    assert len(read_disk(path, manifest.disks[0])) == len(CONTENT)


def test_a_file_truncated_while_it_is_read_is_not_committed_even_if_it_may_change(
    path: Path, tmp_path: Path
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(CONTENT)
    before = points(path)

    with closing(ImageSource(image)) as source:
        os.truncate(image, 1000)
        with pytest.raises(SourceUnavailable, match="ends at 1000"):
            ingest(path, {"A": ChangingSource(source)})

    assert points(path) == before


@pytest.mark.parametrize(
    ("labels", "vm"), [([], "vm"), ([""], "vm"), (["A"], "")], ids=["no disk", "no label", "no VM"]
)
def test_disks_and_vms_without_a_name_are_refused(path: Path, labels: list[str], vm: str) -> None:
    before = points(path)

    with pytest.raises(UsageError):
        ingest(path, {label: disk_of(CONTENT).take_snapshot() for label in labels}, vm=vm)

    assert points(path) == before
