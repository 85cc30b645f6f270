"""The marker of a restore of a whole file makes it the base of a restore in place."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.core.sealed import unseal
from cbtfs.errors import DataCorrupt, SourceMismatch, TargetFailed, UsageError
from cbtfs.restore import image
from cbtfs.restore import marker as markers
from cbtfs.restore import target as targets
from cbtfs.restore.disk import Restored, restore_disk
from cbtfs.restore.marker import marker_of_file
from cbtfs.store import files
from cbtfs.store.repository import reading
from tests.make_points import BLOCK, add_point, new_repository
from tests.restore.test_in_place import restore as restore_in_place
from tests.restore.test_restore import damage, loop_device

_BLOCKS = 200
IMAGES = [
    b"".join(bytes([(n * 7 + n // (90 - v)) % 5]) * BLOCK for n in range(_BLOCKS)) for v in range(2)
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_repository(tmp_path_factory.mktemp("r") / "repository")


@pytest.fixture(scope="module")
def points(repository: Path) -> list[Manifest]:
    return [add_point(repository, {"d": image}) for image in IMAGES]


def restore(
    repository: Path,
    point: Manifest,
    target: Path,
    state: Path | None = None,
    **options: Any,
) -> Restored:
    """Restore a whole disk and write its marker."""
    with reading(repository) as opened:
        return restore_disk(
            opened,
            point.point,
            point.disks[0],
            target,
            marker=marker_of_file(target, state, repository),
            **options,
        )


def beside(target: Path) -> Path:
    return target.with_name(target.name + ".cbtfs")


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("has_state", [False, True])
def test_a_restored_file_becomes_a_later_point_by_the_difference(
    repository: Path, points: list[Manifest], tmp_path: Path, is_old: bool, has_state: bool
) -> None:
    target = tmp_path / "disk.raw"
    state = tmp_path / "state" if has_state else None
    if is_old:
        target.write_bytes(b"\xff" * 300 * BLOCK)

    restored = restore(repository, points[0], target, state, may_overwrite=is_old)

    assert restored.marker == state or beside(target)
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "state" if has_state else "disk.raw.cbtfs"]
    result = restore_in_place(repository, points[1], target, points[0], state=state)
    assert target.read_bytes() == IMAGES[1]
    assert 0 < result.bytes_written < len(IMAGES[1])


def test_the_marker_fits_the_file_after_its_last_flush(
    repository: Path, points: list[Manifest], tmp_path: Path
) -> None:
    target = tmp_path / "disk.raw"

    restore(repository, points[0], target)

    os.sync()
    document, facts = unseal(beside(target).read_bytes()), target.stat()
    assert document["state"] == "complete"
    assert document["point"] == points[0].point
    assert document["file"] == {
        "device": facts.st_dev,
        "inode": facts.st_ino,
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "ctime_ns": facts.st_ctime_ns,
    }


def test_a_write_after_the_restore_is_refused(
    repository: Path, points: list[Manifest], tmp_path: Path
) -> None:
    target = tmp_path / "disk.raw"
    for _ in range(10):
        restore(repository, points[0], target, may_overwrite=True)
        with target.open("r+b") as file:
            file.write(b"stray")
        with pytest.raises(SourceMismatch, match=r"changed after the last restore.*--compare"):
            restore_in_place(repository, points[1], target, points[0])


def _write(target: Path) -> None:
    with target.open("r+b") as file:
        file.write(b"stray")


def _replace(target: Path) -> None:
    target.with_name("copy").write_bytes(target.read_bytes())
    target.with_name("copy").rename(target)


@pytest.mark.parametrize("change", [_write, _replace, Path.unlink])
@pytest.mark.parametrize("is_early", [False, True])
def test_a_file_that_changes_before_its_marker_gets_none(
    repository: Path,
    points: list[Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    is_early: bool,
) -> None:
    """*is_early*: between the end of the restore and the first look at the file."""
    target = tmp_path / "disk.raw"
    wait, rename = markers._wait_beyond, targets._rename_if_absent

    def wait_and_change(*times: int) -> None:
        wait(*times)
        change(target)

    def rename_and_change(aside: Path, path: Path) -> None:
        rename(aside, path)
        change(target)

    if is_early:
        monkeypatch.setattr(targets, "_rename_if_absent", rename_and_change)
    else:
        monkeypatch.setattr(markers, "_wait_beyond", wait_and_change)

    with pytest.raises(TargetFailed, match=r"another program writes|disappeared"):
        restore(repository, points[0], target)

    assert not beside(target).exists()


class _Changes:
    """Calls *act* with the number of each change of the target and its marker, before it."""

    def __init__(self, patch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
        self.count = 0
        self._act = act
        patch.setattr(image, "_write_leaf", self._of(image._write_leaf))
        patch.setattr(targets.FileTarget, "finish", self._of(targets.FileTarget.finish))
        patch.setattr(targets, "_rename_if_absent", self._of(targets._rename_if_absent))
        patch.setattr(markers, "replace", self._of(files.replace))

    def _of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.count += 1
            self._act(self.count)
            return function(*arguments)

        return call


@pytest.mark.parametrize("is_old", [False, True])
def test_a_killed_restore_leaves_no_marker(
    repository: Path, points: list[Manifest], tmp_path: Path, is_old: bool
) -> None:
    target = tmp_path / "disk.raw"
    with pytest.MonkeyPatch.context() as patch:
        changes = _Changes(patch, lambda _: None)
        restore(repository, points[0], target)
    count = changes.count if not is_old else changes.count - 1  # an old file keeps its name
    assert count > 3

    for kills_at in range(1, count + 1):
        target.unlink()
        beside(target).unlink(missing_ok=True)
        if is_old:
            restore(repository, points[0], target)
        child = os.fork()
        if not child:
            _restore_and_die(repository, points[1], target, kills_at)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert not beside(target).exists()
        target.touch()
        os.truncate(target, len(IMAGES[0]))
        with pytest.raises(SourceMismatch, match="does not exist"):
            restore_in_place(repository, points[0], target, points[1])


def _restore_and_die(repository: Path, point: Manifest, target: Path, kills_at: int) -> None:
    """Restore in a child, which SIGKILL ends before that change; never return."""

    def kill(number: int) -> None:
        if number == kills_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        _Changes(pytest.MonkeyPatch(), kill)
        restore(repository, point, target, may_overwrite=True)
    finally:
        os._exit(9)


def test_a_loss_leaves_no_marker(tmp_path: Path) -> None:
    from tests.restore.test_restore import IMAGE

    path, target = new_repository(tmp_path / "repository"), tmp_path / "disk.raw"
    point = add_point(path, {"d": IMAGE})
    restore(path, point, target)
    damage(path, 4)

    with pytest.raises(DataCorrupt):
        restore(path, point, target, may_overwrite=True)
    assert not beside(target).exists()
    restored = restore(path, point, target, may_overwrite=True, keeps_going=True)

    assert restored.lost
    assert restored.marker is None
    assert not beside(target).exists()


def test_only_a_regular_file_gets_a_marker(
    repository: Path, points: list[Manifest], tmp_path: Path
) -> None:
    file, mine = tmp_path / "device", tmp_path / "mine"
    file.write_bytes(b"\xee" * len(IMAGES[0]))
    mine.write_bytes(b"mine")
    with loop_device(file) as device, pytest.raises(UsageError, match="not a regular file"):
        restore(repository, points[0], device, tmp_path / "state", may_overwrite=True)
    for state, why in {
        mine: "not a marker",
        tmp_path / "new": "is the target",
        repository / "state": "inside the repository",
    }.items():
        with pytest.raises(UsageError, match=why):
            restore(repository, points[0], tmp_path / "new", state)

    assert file.read_bytes() == b"\xee" * len(IMAGES[0])
    assert sorted(os.listdir(tmp_path)) == ["device", "mine"]
