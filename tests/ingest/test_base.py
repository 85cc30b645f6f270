"""The base of an ingest, the trust in change lists, and the recorded reasons."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest, PointState
from cbtfs.errors import ChangeTrackingUnusable
from cbtfs.ingest.plan import Want
from cbtfs.listing import find_point
from cbtfs.store.repository import reading, writing
from tests.ingest.fake_disks import (
    Untracked,
    disk_of,
    forget,
    ingest,
    lose_catalog,
    packs,
    points,
    read_disk,
    with_list,
)
from tests.make_points import BLOCK, new_repository, read_point
from tests.source.fake import FakeDisk

SIZE = 70 * BLOCK + 17
WRITTEN = [(5 * BLOCK, 3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def disk() -> FakeDisk:
    return disk_of(bytes(range(1, 252)) * (SIZE // 251 + 1))


def take(path: Path, disk: FakeDisk, *, vm: str = "vm", want: Want = "auto") -> Manifest:
    return ingest(path, {"A": disk.take_snapshot()}, vm=vm, want=want)


def take_listed(path: Path, disk: FakeDisk, since: Manifest | None = None) -> Manifest:
    """Write three bytes and take a point from a change list with exactly these."""
    disk.write(5 * BLOCK, bytes([disk.content[5 * BLOCK] ^ 1]) * 3)
    point = None if since is None else since.point
    return ingest(path, {"A": with_list(disk.take_snapshot(), WRITTEN, point)})


def is_right(path: Path, manifest: Manifest, disk: FakeDisk) -> bool:
    return read_point(path, manifest) == {"A": bytes(disk.content)}


def mark_suspect(path: Path, manifest: Manifest) -> None:
    with writing(path) as repository:
        repository.points.put_state(PointState(manifest.point, suspect="a test doubts it"))


def damage_manifest(path: Path, name: str) -> None:
    file = path / "points" / name
    file.write_bytes(file.read_bytes()[:-5])


def test_the_first_point_is_full(path: Path, disk: FakeDisk) -> None:
    manifest = take(path, disk)

    assert (manifest.kind, manifest.reason) == ("full", "first restore point of this disk")


def test_a_list_is_since_the_last_committed_point(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    second = take_listed(path, disk)

    assert second.kind == "incremental"
    assert second.disks[0].parent == first.point
    assert second.disks[0].counts.read_bytes == BLOCK
    assert is_right(path, second, disk)


def test_a_list_is_not_trusted_once_the_last_point_is_forgotten(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    disk.write(0, b"changed before the point that is forgotten")
    second = take(path, disk)
    forget(path, second.point)

    third = take_listed(path, disk)

    assert third.kind == "full"
    assert "forgotten" in third.reason
    assert third.disks[0].parent == first.point
    assert is_right(path, third, disk)


def test_a_forgotten_older_point_does_not_void_a_list(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    take(path, disk)
    forget(path, first.point)

    third = take_listed(path, disk)

    assert third.kind == "incremental"
    assert is_right(path, third, disk)


def test_a_list_is_trusted_again_after_the_run_that_followed_a_forget(
    path: Path, disk: FakeDisk
) -> None:
    take(path, disk)
    forget(path, take(path, disk).point)
    take_listed(path, disk)

    fourth = take_listed(path, disk)

    assert fourth.kind == "incremental"
    assert is_right(path, fourth, disk)


def test_a_list_is_not_trusted_if_a_forgotten_manifest_is_unreadable(
    path: Path, disk: FakeDisk
) -> None:
    take(path, disk)
    disk.write(0, b"changed before the point that is forgotten")
    second = take(path, disk)
    forget(path, second.point)
    damage_manifest(path, f"{second.point}.forgotten")

    third = take_listed(path, disk)

    assert third.kind == "full"
    assert is_right(path, third, disk)


def test_a_list_that_names_its_start_is_trusted_although_the_last_point_is_forgotten(
    path: Path, disk: FakeDisk
) -> None:
    take(path, disk)
    disk.write(0, b"changed before the point that is forgotten")
    forget(path, take(path, disk).point)
    disk.write(9 * BLOCK, b"and after")

    third = take(path, disk)

    assert third.kind == "incremental"
    assert third.disks[0].counts.read_bytes == 2 * BLOCK
    assert is_right(path, third, disk)


def test_a_disk_with_all_points_forgotten_gets_a_full(path: Path, disk: FakeDisk) -> None:
    forget(path, take(path, disk).point)

    second = take_listed(path, disk)

    assert second.reason == "first restore point of this disk"
    assert is_right(path, second, disk)


def test_a_list_since_an_older_point_is_not_trusted(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    disk.write(0, b"changed before the second point")
    take(path, disk)
    disk.write(0, b"and back")

    third = take_listed(path, disk, since=first)

    assert third.kind == "full"
    assert f"not since {third.disks[0].parent}" in third.reason
    assert is_right(path, third, disk)


def test_a_list_since_the_point_of_another_vm_is_not_trusted(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    other = take(path, disk, vm="other")
    disk.write(0, b"not in the list")

    manifest = take_listed(path, disk, since=other)

    assert manifest.kind == "full"
    assert is_right(path, manifest, disk)


def test_a_list_of_a_disk_that_was_absent_starts_at_the_last_point_with_it(
    path: Path, disk: FakeDisk
) -> None:
    first = take(path, disk)
    ingest(path, {"B": disk_of(b"another disk").take_snapshot()})

    third = take_listed(path, disk)

    assert third.kind == "incremental"
    assert third.disks[0].parent == first.point
    assert is_right(path, third, disk)


def test_a_disk_without_a_tracker_is_compared_by_digest(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    disk.write(9 * BLOCK, b"written")

    second = ingest(path, {"A": Untracked(disk.take_snapshot())})

    assert (second.kind, second.disks[0].parent) == ("full", first.point)
    assert second.reason == "compared by digest: no change list"
    assert second.disks[0].counts.written_blocks == 1
    assert is_right(path, second, disk)


def test_an_unreadable_manifest_voids_lists(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    disk.write(0, b"changed before the point that cannot be read")
    second = take(path, disk)
    damage_manifest(path, second.point)
    lose_catalog(path)

    third = take_listed(path, disk)

    assert third.kind == "full"
    assert second.point in third.reason
    assert is_right(path, third, disk)


def test_a_point_taken_beside_an_unreadable_manifest_is_newer_than_it(
    path: Path, disk: FakeDisk
) -> None:
    take(path, disk)
    hidden = [take(path, disk) for _ in range(3)]
    kept = [points(path)[manifest.point] for manifest in hidden]
    for manifest in hidden:
        damage_manifest(path, manifest.point)
    lose_catalog(path)
    last = take(path, disk)
    for manifest, data in zip(hidden, kept, strict=True):
        (path / "points" / manifest.point).write_bytes(data)

    newest = take(path, disk)

    assert last.order > max(manifest.order for manifest in hidden)
    assert newest.disks[0].parent == last.point


def test_a_base_with_lost_objects_causes_a_full_with_that_reason(
    path: Path, disk: FakeDisk
) -> None:
    first = take(path, disk)
    next(path.glob("packs/*/*")).unlink()

    second = take_listed(path, disk)

    assert (second.kind, second.disks[0].parent) == ("full", None)
    assert first.point in second.reason
    assert "damaged" in second.reason
    assert is_right(path, second, disk)


def test_an_older_point_does_not_replace_a_damaged_base(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    before = set(packs(path))
    disk.write(0, b"only in the pack that is lost")
    take(path, disk)
    (lost,) = set(packs(path)) - before
    (path / "packs" / lost[:2] / lost).unlink()

    third = take_listed(path, disk)

    assert third.kind == "full"
    assert is_right(path, third, disk)


def test_a_damaged_point_is_repaired_when_its_blocks_are_read_again(
    path: Path, disk: FakeDisk
) -> None:
    first = take(path, disk)
    next(path.glob("packs/*/*")).unlink()
    take(path, disk)

    with reading(path) as repository:
        assert not find_point(repository, first.point).is_damaged
    assert is_right(path, first, disk)


def test_an_incremental_on_a_suspect_base_is_suspect(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    mark_suspect(path, first)

    second = take_listed(path, disk)
    third = take_listed(path, disk)

    assert "a test doubts it" in (second.disks[0].suspect or "")
    assert "a test doubts it" in (third.disks[0].suspect or "")


def test_a_base_without_a_state_file_is_suspect(path: Path, disk: FakeDisk) -> None:
    first = take(path, disk)
    (path / "points" / f"{first.point}.state").unlink()

    second = take_listed(path, disk)

    assert "missing or damaged" in (second.disks[0].suspect or "")


def take_full(path: Path, disk: FakeDisk) -> Manifest:
    return take(path, disk, want="full")


def take_untracked(path: Path, disk: FakeDisk) -> Manifest:
    return ingest(path, {"A": Untracked(disk.take_snapshot())})


@pytest.mark.parametrize("take_whole", [take_full, take_untracked])
def test_a_full_on_a_suspect_base_is_not_suspect(
    path: Path, disk: FakeDisk, take_whole: Callable[[Path, FakeDisk], Manifest]
) -> None:
    mark_suspect(path, take(path, disk))
    assert take_listed(path, disk).disks[0].suspect is not None

    assert take_whole(path, disk).disks[0].suspect is None
    assert take_listed(path, disk).disks[0].suspect is None


def test_another_disk_of_a_suspect_point_is_suspect_only_if_the_point_is(
    path: Path, disk: FakeDisk
) -> None:
    other = disk_of(b"other")
    mark_suspect(path, take(path, disk))
    both = {"A": disk.take_snapshot(), "B": other.take_snapshot()}
    second = ingest(path, both)

    third = ingest(path, {"B": other.take_snapshot()})

    assert [disk.suspect is None for disk in second.disks] == [False, True]
    assert third.disks[0].suspect is None


def test_incremental_only_takes_an_incremental(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    disk.write(0, b"written")

    assert take(path, disk, want="incremental").kind == "incremental"


def never(path: Path, disk: FakeDisk) -> None:
    """The disk has no point."""


def with_newest_forgotten(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    forget(path, take(path, disk).point)


def with_damaged_base(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    next(path.glob("packs/*/*")).unlink()


def with_unreadable_manifest(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    damage_manifest(path, take(path, disk).point)
    lose_catalog(path)


@pytest.mark.parametrize(
    "prepare", [never, with_newest_forgotten, with_damaged_base, with_unreadable_manifest]
)
def test_incremental_only_refuses_a_full_and_commits_nothing(
    path: Path, disk: FakeDisk, prepare: Callable[[Path, FakeDisk], None]
) -> None:
    prepare(path, disk)
    before = points(path)

    with pytest.raises(ChangeTrackingUnusable, match=r"disk A: .*without --incremental-only"):
        ingest(path, {"A": with_list(disk.take_snapshot(), [])}, want="incremental")

    assert points(path) == before


def test_a_requested_full_ignores_the_list(path: Path, disk: FakeDisk) -> None:
    take(path, disk)
    disk.write(0, b"not in the list")

    manifest = ingest(path, {"A": with_list(disk.take_snapshot(), [])}, want="full")

    assert (manifest.kind, manifest.reason) == ("full", "a full was requested")
    assert is_right(path, manifest, disk)


def test_a_point_is_a_full_if_any_disk_is(path: Path, disk: FakeDisk) -> None:
    take(path, disk)

    manifest = ingest(path, {"A": disk.take_snapshot(), "B": disk_of(b"new").take_snapshot()})

    assert [record.ingest for record in manifest.disks] == ["incremental", "full"]
    assert (manifest.kind, manifest.reason) == ("full", "first restore point of this disk")


def test_a_copied_repository_accepts_an_incremental(
    path: Path, disk: FakeDisk, tmp_path: Path
) -> None:
    take(path, disk)
    shutil.copytree(path, tmp_path / "copy")

    manifest = take_listed(tmp_path / "copy", disk)

    assert manifest.kind == "incremental"
    assert read_disk(tmp_path / "copy", manifest.disks[0]) == disk.content
