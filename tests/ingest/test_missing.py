"""Ingests while manifests of earlier points are missing."""

import random
import shutil
from pathlib import Path

import pytest

from cbtfs.core.distrust import Distrust
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChangeTrackingUnusable, DataCorrupt
from cbtfs.ingest.plan import Want
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.missing import give_up
from cbtfs.store.repository import writing
from tests.ingest.fake_disks import (
    copy_catalog,
    ingest,
    lose_catalog,
    put_back_catalog,
    read_disk,
    with_list,
)
from tests.make_points import BLOCK, new_repository
from tests.source.fake import FakeDisk
from tests.store.older_catalog import make_older

BLOCKS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def disk() -> FakeDisk:
    disk = FakeDisk(BLOCKS * BLOCK)
    disk.write(0, random.Random(1).randbytes(disk.size))
    return disk


def take_listed(
    path: Path, disk: FakeDisk, *blocks: int, since: PointId | None = None, want: Want = "auto"
) -> Manifest:
    """Take a point from a change list of *blocks* since *since*; None: the last committed point."""
    extents = [(block * BLOCK, BLOCK) for block in blocks]
    return ingest(path, {"disk": with_list(disk.take_snapshot(), extents, since)}, want=want)


def lose(path: Path, *points: PointId) -> None:
    for point in points:
        (path / "points" / point).unlink()


def is_right(path: Path, manifest: Manifest, disk: FakeDisk) -> bool:
    return read_disk(path, manifest.disks[0]) == disk.content


def two_points(path: Path, disk: FakeDisk) -> tuple[Manifest, Manifest]:
    """Take a full and an incremental; only the list of the incremental has block 3."""
    first = take_listed(path, disk)
    disk.write(3 * BLOCK, b"in the list of the second point alone")
    second = take_listed(path, disk, 3)
    assert (first.kind, second.kind) == ("full", "incremental")
    return first, second


def test_a_list_is_not_used_if_the_newest_manifest_is_missing(path: Path, disk: FakeDisk) -> None:
    _, second = two_points(path, disk)
    lose(path, second.point)
    disk.write(5 * BLOCK, b"in the list of the third")

    third = take_listed(path, disk, 5)

    assert third.kind == "full"
    assert f"newest point, {second.name} ({second.point}), is missing" in third.reason
    assert third.disks[0].id == second.disks[0].id
    assert third.order > second.order
    assert is_right(path, third, disk)


def test_a_list_that_names_the_missing_point_is_not_used_either(path: Path, disk: FakeDisk) -> None:
    _, second = two_points(path, disk)
    lose(path, second.point)
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5, since=second.point)

    assert third.kind == "full"
    assert is_right(path, third, disk)


def test_a_missing_newest_point_with_fulls_forbidden_is_an_error(
    path: Path, disk: FakeDisk
) -> None:
    _, second = two_points(path, disk)
    lose(path, second.point)

    with pytest.raises(ChangeTrackingUnusable, match="is missing"):
        take_listed(path, disk, 5, want="incremental")


def test_lists_without_since_are_not_trusted_while_an_older_point_is_missing(
    path: Path, disk: FakeDisk
) -> None:
    first, second = two_points(path, disk)
    lose(path, first.point)

    third = take_listed(path, disk)
    fourth = take_listed(path, disk, since=third.point)

    assert (third.kind, "may be missing" in third.reason) == ("full", True)
    assert third.disks[0].parent == second.point
    assert fourth.kind == "incremental"
    assert is_right(path, fourth, disk)


def test_points_of_other_vms_void_no_list(path: Path, disk: FakeDisk) -> None:
    other = ingest(path, {"disk": FakeDisk(BLOCK).take_snapshot()}, vm="other")
    two_points(path, disk)
    lose(path, other.point)

    assert take_listed(path, disk).kind == "incremental"


def test_a_list_after_a_missing_point_was_forgotten_is_not_trusted(
    path: Path, disk: FakeDisk
) -> None:
    first, second = two_points(path, disk)
    lose(path, second.point)
    with writing(path) as repository:
        give_up(repository, [second.point])
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5)

    assert (third.kind, "which was forgotten" in third.reason) == ("full", True)
    assert third.disks[0].parent == first.point
    assert is_right(path, third, disk)
    assert take_listed(path, disk).kind == "incremental"


@pytest.mark.parametrize("block", [3, None], ids=["new data", "no new data"])
def test_a_new_catalog_trusts_no_list_since_points_committed_before_it(
    path: Path, disk: FakeDisk, block: int | None
) -> None:
    _, second = two_points(path, disk)
    lose(path, second.point)
    (path / "points" / f"{second.point}.state").unlink()
    lose_catalog(path)
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5)

    assert (third.kind, "rebuilt or behind" in third.reason) == ("full", True)
    assert third.order > second.order
    assert is_right(path, third, disk)
    disk.write(6 * BLOCK, b"newer")
    fourth = take_listed(path, disk, 6)
    assert fourth.kind == "incremental"
    assert is_right(path, fourth, disk)


def test_a_catalog_of_an_older_schema_trusts_no_list_since_points_that_it_may_have_dropped(
    path: Path, disk: FakeDisk
) -> None:
    """Programs with that schema treated a point without a manifest as forgotten."""
    _, second = two_points(path, disk)
    drop_as_older_programs_did(path, second)
    make_older(path)
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5)

    assert (third.kind, "rebuilt or behind" in third.reason) == ("full", True)
    assert third.order > second.order
    assert is_right(path, third, disk)
    disk.write(6 * BLOCK, b"newer")
    fourth = take_listed(path, disk, 6)
    assert fourth.kind == "incremental"
    assert is_right(path, fourth, disk)


def drop_as_older_programs_did(path: Path, manifest: Manifest) -> None:
    """Remove the manifest, and the point from the catalog."""
    lose(path, manifest.point)
    (path / "points" / f"{manifest.point}.state").unlink()
    catalog = Catalog(path / "catalog", is_writable=True)
    catalog.update(lambda update: update.drop_point(manifest))
    catalog.close()


def test_a_record_of_distrust_holds_across_the_rebuild_of_an_older_catalog(
    path: Path, disk: FakeDisk
) -> None:
    first, second = two_points(path, disk)
    record = Distrust(second.disks[0].id, first.point, first.order, None, None, None)
    DistrustFolder(path).arm(record).fire()
    make_older(path)
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5, since=second.point)

    assert (third.kind, "change tracking missed" in third.reason) == ("full", True)
    assert take_listed(path, disk, since=third.point).kind == "incremental"


def test_an_old_catalog_trusts_no_list_since_points_committed_after_it(
    path: Path, disk: FakeDisk, tmp_path: Path
) -> None:
    take_listed(path, disk)
    copy_catalog(path, tmp_path / "copy")
    disk.write(3 * BLOCK, b"in the list of the second point alone")
    second = take_listed(path, disk, 3)
    lose(path, second.point)
    put_back_catalog(path, tmp_path / "copy")
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5)

    assert third.kind == "full"
    assert is_right(path, third, disk)


def test_a_restored_manifest_is_a_base_again(path: Path, disk: FakeDisk) -> None:
    _, second = two_points(path, disk)
    manifest = path / "points" / second.point
    away = path.with_name("away")
    shutil.move(manifest, away)
    with writing(path) as repository:
        assert repository.findings.missing == {second.point}
    shutil.move(away, manifest)
    disk.write(5 * BLOCK, b"new")

    third = take_listed(path, disk, 5)

    assert (third.kind, third.disks[0].parent) == ("incremental", second.point)
    assert is_right(path, third, disk)


def test_a_repository_without_any_manifest_still_knows_its_vms_and_disks(
    path: Path, disk: FakeDisk
) -> None:
    first, second = two_points(path, disk)
    lose(path, first.point, second.point)

    third = take_listed(path, disk)

    assert third.kind == "full"
    assert (third.vm.id, third.disks[0].id) == (first.vm.id, first.disks[0].id)
    assert is_right(path, third, disk)


def test_an_ingest_stops_if_points_is_another_directory(path: Path, disk: FakeDisk) -> None:
    two_points(path, disk)
    (path / "points").rename(path / "mounted elsewhere")
    (path / "points").mkdir()

    with pytest.raises(DataCorrupt, match="is its file system mounted"):
        take_listed(path, disk)

    assert not [*(path / "points").iterdir()]
