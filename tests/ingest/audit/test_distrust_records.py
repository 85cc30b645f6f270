"""A miss found by an audit is recorded durably: no list is trusted until a full scan is committed.

In each case the change list of a disk omits a change since its last full, an audit finds the miss,
and the run ends without a point of the disk.
"""

import errno
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cbtfs.check.check import check
from cbtfs.cli.main import main
from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError, SourceMismatch, SourceUnavailable, StoreFailed
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.source.wrappers import WrappedSource
from cbtfs.store.backend.local import Directory
from cbtfs.store.pack import PackWriter
from cbtfs.store.points import PointFolder
from cbtfs.store.repository import writing
from tests.ingest.audit.silent_tracker import (
    ALL,
    Silent,
    a_disk,
    listed,
    suspects,
    take,
    take_silent,
    write_block,
)
from tests.ingest.fake_disks import forget, lose_catalog, points
from tests.make_points import BLOCK, EPOCH, new_repository, read_point
from tests.source.fake import FakeDisk, FakeSnapshot
from tools.crash.disks import fill_disk
from tools.crash.loop import loop_disk

BLOCKS = 50
HIDDEN = 17
MISSED = "change tracking missed"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def disk(path: Path) -> FakeDisk:
    """Return a disk with a full point and a hidden change since."""
    disk = a_disk(BLOCKS)
    take_silent(path, disk)
    write_block(disk, HIDDEN, "not listed")
    return disk


def silent(disk: FakeDisk) -> tuple[Silent, FakeSnapshot]:
    shot = disk.take_snapshot()
    return Silent(shot, {HIDDEN}), shot


def is_right(path: Path, disk: FakeDisk) -> bool:
    newest = list(listed(path).values())[-1].manifest
    return read_point(path, newest)["A"] == bytes(disk.content)


def assert_not_lost(path: Path, disk: FakeDisk) -> None:
    """Assert that lists are distrusted until a full scan is committed, and trusted afterwards."""
    before = points(path)
    with pytest.raises(SourceMismatch, match=f"disk A: {MISSED}") as refused:
        take_silent(path, disk, {HIDDEN}, audit=None, want="incremental")
    assert refused.value.exit_code == 33
    assert points(path) == before
    lose_catalog(path)
    record = take_silent(path, disk, {HIDDEN}, audit=None).disks[0]
    assert record.ingest == "full"
    assert record.reason.startswith(MISSED)
    assert is_right(path, disk)
    for number in range(2):
        write_block(disk, number, "listed")
        assert take_silent(path, disk, audit=None).kind == "incremental"
        assert is_right(path, disk)


def test_a_run_that_may_not_take_a_full(path: Path, disk: FakeDisk) -> None:
    with pytest.raises(SourceMismatch, match=f"{MISSED} 1 blocks"):
        take_silent(path, disk, {HIDDEN}, want="incremental")

    assert_not_lost(path, disk)


class FailsAfterFind(WrappedSource):
    """Raises an error at the next read after the hidden block was read."""

    def __init__(self, source: Silent, error: BaseException) -> None:
        super().__init__(source)
        self._error = error
        self._is_found = False

    def read(self, extent: Extent) -> bytes | memoryview:
        if self._is_found:
            raise self._error
        if extent.start <= HIDDEN * BLOCK < extent.end and extent.length < 32 * 1024:
            self._is_found = True
        return super().read(extent)


class Unconfirmed(WrappedSource):
    """A source with a confirm() that raises an error."""

    def __init__(self, source: Silent, error: CbtfsError) -> None:
        super().__init__(source)
        self._error = error

    def confirm(self) -> None:
        raise self._error


LOST = SourceUnavailable("the cable is out")


@pytest.mark.parametrize("error", [LOST, KeyboardInterrupt()], ids=["lost", "interrupted"])
def test_a_source_that_fails_in_the_rest_of_the_audit(
    path: Path, disk: FakeDisk, error: BaseException
) -> None:
    for block in range(0, BLOCKS, 2):
        write_block(disk, block, "listed")  # so that the audit reads block by block
    source, shot = silent(disk)

    with pytest.raises(type(error)):
        take(path, ("A", FailsAfterFind(source, error), shot))

    assert_not_lost(path, disk)


@pytest.mark.parametrize(
    "error", [LOST, SourceMismatch("the file changed while it was read")], ids=["lost", "changed"]
)
def test_a_source_that_cannot_confirm_its_content(
    path: Path, disk: FakeDisk, error: CbtfsError
) -> None:
    source, shot = silent(disk)

    with pytest.raises(type(error)):
        take(path, ("A", Unconfirmed(source, error), shot))

    assert suspects(path) == set()
    assert_not_lost(path, disk)


class Whole(WrappedSource):
    """A source that raises an error at a full scan."""

    def __init__(self, source: Silent, error: BaseException) -> None:
        super().__init__(source)
        self._error = error

    def allocated(self) -> list[Extent]:
        raise self._error


@pytest.mark.parametrize("error", [LOST, KeyboardInterrupt()], ids=["lost", "interrupted"])
def test_a_full_scan_that_fails(path: Path, disk: FakeDisk, error: BaseException) -> None:
    source, shot = silent(disk)

    with pytest.raises(type(error)):
        take(path, ("A", Whole(source, error), shot))

    assert_not_lost(path, disk)


def test_another_disk_that_fails(path: Path, disk: FakeDisk) -> None:
    source, shot = silent(disk)
    other, other_shot = silent(a_disk(3))

    with pytest.raises(SourceUnavailable, match="disk B"):
        take(path, ("A", source, shot), ("B", Whole(other, LOST), other_shot))

    assert_not_lost(path, disk)


def test_a_point_without_the_disk(path: Path, disk: FakeDisk) -> None:
    """With --allow-partial."""
    source, shot = silent(disk)
    other, other_shot = silent(a_disk(3))
    with writing(path) as repository:
        objects = repository.object_writer()
        try:
            manifest = ingest_point(
                repository,
                objects,
                VmInput("vm"),
                [
                    DiskInput("A", Whole(source, LOST), "A", change_id=shot.change_id),
                    DiskInput("B", other, "B", change_id=other_shot.change_id),
                ],
                PointOptions(EPOCH, audit=ALL, leave_out=lambda disk, error: True),
            )
        finally:
            objects.close()
    assert [record.label for record in manifest.disks] == ["B"]

    assert_not_lost(path, disk)


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "step"), [(PackWriter, "close"), (PointFolder, "put_state"), (PointFolder, "commit")]
)
def test_storage_that_refuses_a_write(
    path: Path, disk: FakeDisk, owner: type, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writes: data, marks of suspect points, the commit itself."""
    wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, no_space)
        with pytest.raises(StoreFailed):
            take_silent(path, disk, {HIDDEN})

    assert_not_lost(path, disk)
    assert suspects(path) == {wrong.point}


@pytest.mark.mounts
def test_storage_that_becomes_full_during_the_run(tmp_path: Path) -> None:
    """The record needs no space: it is on the disk before the audit begins."""

    class Filling(Silent):
        def read(self, extent: Extent) -> bytes | memoryview:
            if not filler.exists():
                fill_disk(filler, 0)
            return super().read(extent)

    with loop_disk(tmp_path, "ext4", 32 << 20) as loop:
        filler = loop.mountpoint / "filler"
        path = new_repository(loop.mountpoint / "repository")
        disk = a_disk(1000)
        take_silent(path, disk)
        disk.write(500 * BLOCK, random.Random(1).randbytes(500 * BLOCK))
        (path / "reserve").unlink()
        (path / "reserve").symlink_to("nowhere")  # without it there is nothing to release
        write_block(disk, HIDDEN, "not listed")
        shot = disk.take_snapshot()

        with pytest.raises(StoreFailed, match="No space left"):
            take(path, ("A", Filling(shot, {HIDDEN}), shot))

        filler.unlink()
        (path / "reserve").unlink()
        assert_not_lost(path, disk)


def test_a_record_that_cannot_take_effect_is_an_error(
    path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Directory, "rename", no_space)

    with pytest.raises(StoreFailed, match=r"cannot be recorded: No space.*--full next"):
        take_silent(path, disk, {HIDDEN}, want="incremental")


def test_the_reserve_is_released_for_the_record(
    path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Directory.rename

    def rename(points: Directory, name: str, new: str) -> None:
        if (path / "reserve").exists():
            no_space()
        real(points, name, new)

    assert (path / "reserve").exists()
    monkeypatch.setattr(Directory, "rename", rename)
    with pytest.raises(SourceMismatch, match=MISSED):
        take_silent(path, disk, {HIDDEN}, want="incremental")
    monkeypatch.undo()

    assert_not_lost(path, disk)


@pytest.mark.parametrize("audit_of_full", ["commit", "source"])
def test_a_full_that_was_asked_for_and_fails(
    path: Path, disk: FakeDisk, audit_of_full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, shot = silent(disk)
    failing = source if audit_of_full == "commit" else Unconfirmed(source, LOST)
    with monkeypatch.context() as patch:
        if audit_of_full == "commit":
            patch.setattr(PointFolder, "commit", no_space)
        with pytest.raises((StoreFailed, SourceUnavailable)):
            take(path, ("A", failing, shot), want="full")

    assert_not_lost(path, disk)


def test_a_clean_audit_leaves_no_record(path: Path) -> None:
    disk = a_disk(BLOCKS)
    other = new_repository(path.parent / "other")
    for _ in range(3):
        take_silent(other, disk)
        write_block(disk, 3, "listed")
    take_silent(other, disk, want="full")

    assert not any("distrusted" in name or ".tmp" in name for name in points(other))


def test_lists_since_older_points_stay_distrusted(path: Path, disk: FakeDisk) -> None:
    """After the committed full is forgotten, the base is the earlier point again."""
    take_silent(path, disk, {HIDDEN})
    write_block(disk, 1, "listed")
    take_silent(path, disk, {HIDDEN}, audit=None)
    for name in list(listed(path))[1:]:
        forget(path, name)

    assert_not_lost(path, disk)


def test_a_run_that_ends_between_commit_and_record_costs_no_second_scan(
    path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("cbtfs.store.distrust.DistrustFolder.settle", lambda *_: None)
        assert take_silent(path, disk, {HIDDEN}).kind == "full"

    for number in range(3):
        write_block(disk, number, "listed")
        assert take_silent(path, disk, audit=None).kind == "incremental"
        assert is_right(path, disk)


def test_a_point_of_a_program_without_records_is_not_trusted(
    path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceMismatch):
        take_silent(path, disk, {HIDDEN}, want="incremental")
    with monkeypatch.context() as patch:
        patch.setattr("cbtfs.ingest.disk.find_distrust", lambda *_: None)
        wrong = take_silent(path, disk, {HIDDEN}, audit=None)
    assert wrong.kind == "incremental"

    assert_not_lost(path, disk)
    assert suspects(path) == {wrong.point}


def damage(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-9])


def become_a_link(record: Path) -> None:
    record.unlink()
    record.symlink_to("/dev/null")


@pytest.mark.parametrize("spoil", [damage, become_a_link])
def test_a_damaged_record_voids_all_lists(
    path: Path, disk: FakeDisk, spoil: Callable[[Path], None]
) -> None:
    take_silent(path, disk, {HIDDEN})
    (record,) = (path / "points").glob("*.distrusted")
    spoil(record)

    with pytest.raises(SourceMismatch, match="damaged record"):
        take_silent(path, disk, want="incremental")
    assert take_silent(path, disk).kind == "full"
    assert take_silent(path, disk).kind == "incremental"


def test_the_full_scan_counts_the_missed_blocks(path: Path, disk: FakeDisk) -> None:
    with pytest.raises(SourceMismatch):
        take_silent(path, disk, {HIDDEN}, want="incremental")
    write_block(disk, HIDDEN + 1, "not listed either")

    record = take_silent(path, disk, {HIDDEN, HIDDEN + 1}).disks[0]

    assert record.reason == f"{MISSED} 2 blocks"
    assert record.audit is not None
    assert (record.audit["method"], record.audit["missed"]) == ("whole", 2)


@pytest.mark.parametrize(
    ("step", "number"),
    [("record", "SIGKILL"), ("capture", "SIGKILL"), ("commit", "SIGKILL"), ("capture", "SIGINT")],
)
def test_a_run_that_is_ended_by_a_signal(tmp_path: Path, step: str, number: str) -> None:
    repository = new_repository(tmp_path / "repository")
    image, changed = tmp_path / "disk.raw", tmp_path / "changed.json"
    image.write_bytes(bytes(a_disk(BLOCKS).content))
    changed.write_text("[]")
    command = ["--repo", str(repository), "ingest", "image", "--vm", "web", "--disk", "root"]
    command += ["--changed", str(changed), str(image), "--json"]

    assert main(command) == 0
    with image.open("r+b") as file:
        file.seek(HIDDEN * BLOCK)
        file.write(b"not listed")
    stopped = [sys.executable, "-m", "tests.ingest.audit.signal_at_step", step, number, *command]
    done = subprocess.run([*stopped, "--audit", "100%"], cwd=ROOT, capture_output=True, check=False)
    refused = main([*command, "--audit", "0", "--incremental-only"])
    code = main([*command, "--audit", "0"])

    assert done.returncode == {"SIGKILL": -9, "SIGINT": 130}[number]
    assert (refused, code) == (33, 0)
    newest = list(listed(repository).values())[-1].manifest
    assert newest.kind == "full"
    assert read_point(repository, newest)["root"] == image.read_bytes()


def test_check_names_a_damaged_record(path: Path, disk: FakeDisk) -> None:
    take_silent(path, disk, {HIDDEN})
    (record,) = (path / "points").glob("*.distrusted")
    assert check(path, read_data=False).problems == []
    damage(record)

    (problem,) = check(path, read_data=False).problems

    assert problem.kind == "state"
    assert record.name in problem.what
