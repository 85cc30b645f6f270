"""The directory points/: commits, states, leases."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, PointState, Vm, encode_manifest
from cbtfs.errors import DataCorrupt, PointNotFound, StoreFailed
from cbtfs.store.files import put_if_absent, replace, write_all
from cbtfs.store.identity import new_id, new_point_id, new_vm_id
from cbtfs.store.points import PointFolder
from cbtfs.store.storing import storing
from tests.store.folders import points_at


@pytest.fixture
def folder(tmp_path: Path) -> PointFolder:
    return points_at(tmp_path)


def manifest() -> Manifest:
    vm = Vm(new_vm_id(), "vm", "vm")
    time = "2026-01-01T00:00:00Z"
    return Manifest(new_point_id(), vm, 1, time, "name", time, new_id(), "tests", "full", "", ())


@pytest.fixture
def point(folder: PointFolder) -> PointId:
    committed = manifest()
    folder.commit(committed, PointState(committed.point))
    return committed.point


def test_a_committed_point_is_loaded_unchanged(folder: PointFolder) -> None:
    committed = manifest()
    folder.commit(committed, PointState(committed.point, tags=("kept",)))

    assert folder.ids() == {committed.point}
    assert folder.load_manifest(committed.point) == encode_manifest(committed)
    assert folder.load_state(committed.point)[0].tags == ("kept",)


def test_a_point_is_committed_once(folder: PointFolder) -> None:
    committed = manifest()
    folder.commit(committed, PointState(committed.point))

    with pytest.raises(FileExistsError):
        folder.commit(committed, PointState(committed.point))


def test_a_commit_leaves_nothing_aside(folder: PointFolder, point: PointId) -> None:
    assert sorted(os.listdir(folder.path(point).parent)) == [point, f"{point}.state"]


def test_the_state_exists_before_the_manifest(
    folder: PointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    committed = manifest()
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="Input"):
        folder.commit(committed, PointState(committed.point))

    assert folder.ids() == set()
    assert not folder.load_state(committed.point)[0].is_protected


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff" * 100])
def test_a_state_that_is_missing_or_damaged_is_protected_and_suspect(
    folder: PointFolder, point: PointId, content: bytes | None
) -> None:
    path = folder.path(point).with_name(f"{point}.state")
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    state, _ = folder.load_state(point)
    assert state.is_protected
    assert state.suspect


def test_the_state_of_another_point_is_ignored(folder: PointFolder, point: PointId) -> None:
    other = manifest()
    folder.commit(other, PointState(other.point))
    os.replace(
        folder.path(other.point).with_name(f"{other.point}.state"),
        folder.path(point).with_name(f"{point}.state"),
    )

    assert folder.load_state(point)[0].is_protected


def test_a_replaced_state_has_another_stamp(folder: PointFolder, point: PointId) -> None:
    before = folder.state_stamps()
    folder.put_state(PointState(point, is_protected=True))

    assert folder.state_stamps()[point] != before[point]
    assert folder.load_state(point)[1] == folder.state_stamps()[point]


def test_a_manifest_that_is_gone_is_no_point(folder: PointFolder) -> None:
    with pytest.raises(PointNotFound):
        folder.load_manifest(new_point_id())


def test_a_damaged_manifest_is_not_a_missing_one(folder: PointFolder, point: PointId) -> None:
    folder.path(point).write_bytes(b"{}")

    with pytest.raises(DataCorrupt, match=point):
        folder.load_manifest(point)


def test_names_that_are_no_ids_are_no_points(folder: PointFolder, point: PointId) -> None:
    for name in (point.upper(), point[:-1], f"{point}.tmp", f"{point}.forgotten", "x" * 32):
        (folder.path(point).parent / name).touch()

    assert folder.ids() == {point}


def can_lock(path: Path) -> bool:
    """Return whether a prune could claim the manifest."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def test_a_lease_holds_until_it_ends(folder: PointFolder, point: PointId) -> None:
    with folder.leased(point), folder.leased(point):
        assert not can_lock(folder.path(point))

    assert can_lock(folder.path(point))


def test_a_lease_survives_that_the_point_is_forgotten(folder: PointFolder, point: PointId) -> None:
    forgotten = folder.path(point).with_name(f"{point}.forgotten")
    with folder.leased(point):
        folder.path(point).rename(forgotten)

        assert not can_lock(forgotten)
    assert folder.forgotten_ids() == {point}


def test_a_removed_point_cannot_be_leased(folder: PointFolder) -> None:
    with pytest.raises(PointNotFound), folder.leased(new_point_id()):
        pass


def test_a_replaced_manifest_is_not_leased(
    folder: PointFolder, point: PointId, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def forgotten_meanwhile(fd: int, operation: int) -> None:
        path = folder.path(point)
        content = path.read_bytes()
        path.rename(path.with_name(f"{point}.forgotten"))
        path.write_bytes(content)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", forgotten_meanwhile)

    with pytest.raises(PointNotFound, match="gone"), folder.leased(point):
        pass


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    put_if_absent(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        put_if_absent(tmp_path / "file", b"second")

    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


_PUT_AND_DIE: Final = """
import os, sys
from pathlib import Path
from cbtfs.store import files
files.sync_folder = os.link = lambda *_, **__: os.kill(os.getpid(), 9)
files.put_if_absent(Path(sys.argv[1]), b"data")
"""


def test_a_killed_creation_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _PUT_AND_DIE, tmp_path / "file"], check=False)

    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_a_file_is_created_where_none_can_be_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = os.open

    def refusing(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, "refused")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    put_if_absent(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        put_if_absent(tmp_path / "file", b"second")

    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_replaced_file_is_whole_whatever_was_left_aside(tmp_path: Path) -> None:
    (tmp_path / "file.tmp").write_bytes(b"left by the dead")
    replace(tmp_path / "file", b"content")

    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_flush_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    replace(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreFailed, match="Input/output error"), storing("a file"):
        replace(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"old"


def test_everything_is_written_however_many_parts(tmp_path: Path) -> None:
    parts = [bytes([n % 256]) * (n % 3) for n in range(3000)]
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)

    assert write_all(fd, parts) == sum(map(len, parts))
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
