"""Audited points of disks with missed changes: reads, suspect marks, records and refusals."""

from pathlib import Path

import pytest

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceMismatch, SourceUnavailable
from cbtfs.mount.files import encode_vm_json
from cbtfs.source.wrappers import WrappedSource
from cbtfs.store.repository import writing
from tests.ingest.audit.silent_tracker import (
    ALL,
    FEW,
    MOST,
    Silent,
    a_disk,
    listed,
    suspects,
    take,
    take_silent,
    write_block,
)
from tests.ingest.fake_disks import Breaking, forget, lose_catalog, points
from tests.make_points import BLOCK, new_repository, read_point
from tests.source.fake import FakeDisk

BLOCKS = 50
HIDDEN = 17


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def disk() -> FakeDisk:
    return a_disk(BLOCKS)


def is_right(path: Path, disk: FakeDisk, label: str = "A") -> bool:
    newest = list(listed(path).values())[-1].manifest
    return read_point(path, newest)[label] == bytes(disk.content)


def test_a_complete_list_is_audited_and_trusted(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, 3, "told")

    record = take_silent(path, disk).disks[0]

    assert record.ingest == "incremental"
    assert record.audit is not None
    assert record.audit["method"] == "sample"
    assert (record.audit["blocks"], record.audit["of"]) == (BLOCKS - 1, BLOCKS - 1)
    assert record.audit["mismatches"] == 0
    assert suspects(path) == set()


def test_reads_of_an_audit_are_counted_separately(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, 3, "told")
    shot = disk.take_snapshot()

    record = take(path, ("A", shot, shot)).disks[0]

    assert record.audit is not None
    assert record.counts.read_bytes == BLOCK
    fetched = sum(extent.length for extent in shot.fetched)
    assert record.audit["read_bytes"] == fetched - BLOCK


def test_without_an_audit_nothing_more_is_read(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk, audit=None)
    write_block(disk, 3, "told")
    shot = disk.take_snapshot()

    record = take(path, ("A", shot, shot), audit=None).disks[0]

    assert record.audit is None
    assert shot.fetched == [Extent(3 * BLOCK, BLOCK)]


def test_a_missed_change_makes_the_disk_a_full_at_once(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    write_block(disk, HIDDEN + 1, "not told either")
    write_block(disk, 3, "told")

    record = take_silent(path, disk, {HIDDEN, HIDDEN + 1}).disks[0]

    assert (record.ingest, record.reason) == ("full", "change tracking missed 2 blocks")
    assert record.audit is not None
    assert (record.audit["mismatches"], record.audit["missed"]) == (2, 2)
    assert record.suspect is None
    assert is_right(path, disk)


def test_the_reason_has_the_count_of_the_full_scan(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    for block in range(10, 40):
        write_block(disk, block, "not told")

    record = take_silent(path, disk, range(10, 40), audit=MOST).disks[0]

    assert record.audit is not None
    assert record.audit["blocks"] == MOST.least
    assert 20 <= record.audit["mismatches"] <= 30
    assert record.reason == "change tracking missed 30 blocks"


def test_exactly_the_points_since_the_last_full_are_suspect(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, 1, "told")
    take_silent(path, disk)
    full = take_silent(path, disk, want="full")
    wrong = []
    for number in range(3):
        write_block(disk, HIDDEN, f"not told {number}")
        wrong.append(take_silent(path, disk, {HIDDEN}, audit=None).point)

    manifest = take_silent(path, disk, {HIDDEN})
    after = take_silent(path, disk, audit=None)

    assert suspects(path) == set(wrong)
    assert full.point not in wrong
    assert manifest.kind == "full"
    assert (after.kind, after.disks[0].suspect) == ("incremental", None)
    assert "missed 1 blocks" in (listed(path)[wrong[0]].suspect or "")


def test_points_before_a_forgotten_full_are_not_suspect(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, 1, "told")
    before = take_silent(path, disk)
    full = take_silent(path, disk, want="full")
    write_block(disk, HIDDEN, "not told")
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    forget(path, full.point)

    take_silent(path, disk, {HIDDEN})

    assert suspects(path) == {wrong.point}
    assert before.kind == "incremental"


def test_marks_survive_the_loss_of_the_catalog(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    take_silent(path, disk, {HIDDEN})

    lose_catalog(path)
    with writing(path):
        pass

    assert suspects(path) == {wrong.point}


def test_if_fulls_are_forbidden_nothing_is_committed_but_the_marks_stay(
    path: Path, disk: FakeDisk
) -> None:
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    before = set(listed(path))

    with pytest.raises(SourceMismatch, match="disk A: change tracking missed 1 blocks") as caught:
        take_silent(path, disk, {HIDDEN}, want="incremental")

    assert caught.value.exit_code == 33
    assert set(listed(path)) == before
    assert suspects(path) == {wrong.point}


def test_a_full_that_fails_after_a_mismatch_leaves_the_marks(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    shot = disk.take_snapshot()
    sound = 32 * 1024 + BLOCKS * BLOCK  # the partition tables, then the sample
    failing = Breaking(Silent(shot, {HIDDEN}), SourceUnavailable("the cable is out"), sound)

    with pytest.raises(SourceUnavailable, match="cable"):
        take(path, ("A", failing, shot))

    assert suspects(path) == {wrong.point}


def test_a_disk_that_changes_meanwhile_marks_no_point_and_gets_a_full_next(
    path: Path, disk: FakeDisk
) -> None:
    class Live(WrappedSource):
        def confirm(self) -> None:
            raise SourceMismatch("the file changed while it was read")

    take_silent(path, disk)
    write_block(disk, 1, "told")
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    shot = disk.take_snapshot()
    before = points(path)

    with pytest.raises(SourceMismatch, match="changed while"):
        take(path, ("A", Live(Silent(shot, {HIDDEN})), shot))

    after = points(path)
    (record,) = after.keys() - before.keys()
    assert record.endswith(".distrusted")
    assert {name: data for name, data in after.items() if name != record} == before
    assert take_silent(path, disk, {HIDDEN}, audit=None).kind == "full"


def test_a_requested_full_finds_misses_that_no_sample_found(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    write_block(disk, 2, "told")

    record = take_silent(path, disk, {HIDDEN}, want="full").disks[0]

    assert record.reason == "a full was requested"
    assert record.audit is not None
    assert record.audit["method"] == "whole"
    assert (record.audit["of"], record.audit["missed"]) == (BLOCKS - 1, 1)
    assert suspects(path) == {wrong.point}
    assert is_right(path, disk)


def test_a_full_of_a_disk_without_misses_marks_nothing(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, 2, "told")
    take_silent(path, disk)
    disk.resize((BLOCKS + 3) * BLOCK + 5)
    write_block(disk, BLOCKS + 1, "told")

    record = take_silent(path, disk, want="full").disks[0]

    assert record.audit is not None
    assert record.audit["missed"] == 0
    assert suspects(path) == set()


@pytest.mark.parametrize("size", [BLOCKS * BLOCK + 17, 70 * BLOCK, 30 * BLOCK, 30 * BLOCK - 9, 0])
def test_a_resized_disk_with_a_complete_list_passes(path: Path, disk: FakeDisk, size: int) -> None:
    take_silent(path, disk)
    disk.resize(size)

    record = take_silent(path, disk).disks[0]

    assert record.ingest == "incremental"
    assert record.audit is not None
    assert record.audit["mismatches"] == 0
    assert is_right(path, disk)


def test_a_suspect_disk_does_not_affect_the_others_of_the_vm(path: Path, disk: FakeDisk) -> None:
    other = a_disk(8)

    def take_both(*hidden: int, with_audit: bool = True) -> None:
        one, two = disk.take_snapshot(), other.take_snapshot()
        audit = ALL if with_audit else None
        take(path, ("A", Silent(one, hidden), one), ("B", two, two), audit=audit)

    take_both()
    write_block(disk, HIDDEN, "not told")
    take_both(HIDDEN, with_audit=False)
    take_both(HIDDEN)
    take_both()

    shown = list(listed(path).values())
    assert [point.suspect is not None for point in shown] == [False, True, False, False]
    assert [d.ingest for d in shown[2].manifest.disks] == ["full", "incremental"]
    assert [d.suspect for p in shown for d in p.manifest.disks] == [None] * 8


def test_a_suspect_point_is_shown_as_such_everywhere(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not told")
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    take_silent(path, disk, {HIDDEN})

    point = listed(path)[wrong.point]

    assert point.marks == ["suspect"]
    assert b'"suspect": "disk A: change tracking missed 1 blocks' in encode_vm_json(
        point.manifest, point.state, is_damaged=False
    )


def test_a_run_chooses_its_sample_by_its_seed(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk)
    samples = []
    for run in ("1" * 32, "2" * 32):
        shot = disk.take_snapshot()
        manifest = take(path, ("A", shot, shot), audit=FEW, run=run)
        assert manifest.run == run
        assert manifest.disks[0].audit is not None
        assert manifest.disks[0].audit["seed"] == f"{run}/{manifest.disks[0].id}"
        samples.append({e.start for e in shot.fetched})

    assert samples[0] != samples[1]
