"""Points that come back, and named bases, never make a wrong change list look right."""

from pathlib import Path

import pytest

from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import Manifest
from cbtfs.core.reasons import FullReason
from cbtfs.errors import SourceMismatch, UsageError
from cbtfs.store.repository import reading, writing
from cbtfs.unforget import unforget
from tests.ingest.fake_disks import disk_of, forget, ingest, with_list
from tests.ingest.test_named_base import Branches, content_of, written
from tests.make_points import new_repository

EVERYTHING = Sampling(1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def bring_back(path: Path, *points: Manifest) -> None:
    with writing(path) as repository:
        unforget(repository, [point.point for point in points])


def suspect(path: Path, point: Manifest) -> str | None:
    with reading(path) as repository:
        return repository.points.load_state(point.point)[0].suspects(point.disks[0].id)


def test_a_list_is_since_the_vm_that_was_captured_last(path: Path) -> None:
    """A VM was forgotten as a whole and captured anew; then an old point comes back."""
    for number in range(4):  # the order of ids is random
        branches, vm = Branches(path), f"vm{number}"
        old = branches.take(content_of(1), vm=vm)
        forget(path, old.point)
        new = branches.take(content_of(2), vm=vm)
        bring_back(path, old)

        listed = with_list(disk_of(content_of(2)).take_snapshot(), [])
        latest = ingest(path, {"A": listed}, vm=vm)

        assert new.order > old.order
        assert latest.vm.id == new.vm.id != old.vm.id
        assert (latest.kind, latest.disks[0].parent) == ("incremental", new.point)


def test_a_list_is_not_trusted_after_the_vm_came_back(path: Path) -> None:
    """The point that was captured last belongs to another id of the VM, and is forgotten."""
    branches = Branches(path)
    old = branches.take(content_of(1))
    forget(path, old.point)
    forget(path, branches.take(content_of(2)).point)
    bring_back(path, old)

    listed = with_list(disk_of(content_of(2)).take_snapshot(), [])
    latest = ingest(path, {"A": listed})

    assert latest.disks[0].full_reason == FullReason.LIST_OF_ANOTHER_POINT


def test_a_point_that_shares_the_list_of_an_earlier_one_comes_back_suspect(path: Path) -> None:
    branches = Branches(path)
    full = branches.take(content_of(1))
    wrong = branches.take(written(content_of(1), 2), full, hidden=1)
    later = branches.take(written(branches.contents[wrong.point], 3), wrong)
    forget(path, later.point)
    branches.retained.remove(later)
    branches.take(written(branches.contents[wrong.point], 4), wrong, audit=EVERYTHING)

    bring_back(path, later)

    assert suspect(path, wrong)
    assert suspect(path, later)


def test_a_point_since_the_base_of_an_audit_comes_back_suspect(path: Path) -> None:
    branches = Branches(path)
    full = branches.take(content_of(1))
    gone = branches.take(written(content_of(1), 2), full)
    forget(path, gone.point)
    found = branches.take(
        written(branches.contents[full.point], 3), full, hidden=1, audit=EVERYTHING
    )

    bring_back(path, gone)

    assert found.disks[0].full_reason == FullReason.AUDIT
    assert suspect(path, gone)


def test_a_point_of_another_branch_comes_back_clean(path: Path) -> None:
    branches = Branches(path)
    full = branches.take(content_of(1))
    gone = branches.take(written(content_of(1), 2), full)
    other = branches.take(content_of(3), want="full")
    forget(path, gone.point)
    branches.take(written(content_of(3), 4), other, hidden=1, audit=EVERYTHING)

    bring_back(path, gone)

    assert suspect(path, gone) is None


def test_a_miss_since_an_older_base_outlives_its_run(path: Path) -> None:
    """A full between that base and the find is no full scan since the find."""
    branches = Branches(path)
    old = branches.take(content_of(1))
    newest = branches.take(content_of(2), want="full")
    content = written(content_of(1), 3)
    with pytest.raises(SourceMismatch):
        branches.take(content, old, hidden=1, audit=EVERYTHING, want="incremental")

    manifest = branches.take(written(content_of(2), 4), newest)

    assert manifest.disks[0].full_reason == FullReason.AUDIT


def test_two_points_of_one_name_do_not_come_back_together(path: Path) -> None:
    branches = Branches(path)
    branches.take(content_of(9))
    first = branches.take(content_of(1), seconds=7)
    forget(path, first.point)
    second = branches.take(content_of(2), seconds=7)
    forget(path, second.point)
    assert first.name == second.name

    with pytest.raises(UsageError, match="has the name"):
        bring_back(path, first, second)
