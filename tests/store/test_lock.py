"""The lock admits one writer at a time and names its holder."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbtfs.errors import (
    AccessDenied,
    CbtfsError,
    DataCorrupt,
    RepositoryLocked,
    SourceUnavailable,
    StoreFailed,
)
from cbtfs.store.lock import WriterLock
from cbtfs.store.pack import Pack
from cbtfs.store.packs import PackFolder
from cbtfs.store.repository import reading, rebuild_catalog, writing
from tests.make_points import add_point, new_repository
from tests.store.folders import packs_at

HOLD = """
import sys
from pathlib import Path
from cbtfs.store.repository import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo")


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the writer's lock in another process until the end of the block."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder


def test_the_error_of_a_second_writer_names_the_holder(path: Path) -> None:
    with (
        held(path) as holder,
        pytest.raises(RepositoryLocked, match=f"locked by process {holder.pid} on"),
        writing(path),
    ):
        pass


def test_a_second_writer_waits_as_long_as_it_may(path: Path) -> None:
    with held(path), pytest.raises(RepositoryLocked), writing(path, lock_wait=0.2):
        pass


def test_a_second_writer_starts_when_the_first_ends(path: Path) -> None:
    with held(path) as holder:
        holder.communicate("\n")
        with writing(path, lock_wait=30) as repository:
            assert repository.findings.is_empty


def test_a_waiting_writer_logs_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with held(path), pytest.raises(RepositoryLocked), writing(path, lock_wait=0.2):
        pass

    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("waiting for process")
    assert line.endswith(", at most 0 s")


def test_a_lost_catalog_is_rebuilt_with_a_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with writing(path):
        pass
    assert caplog.records == []
    add_point(path, {"disk": b"content"})
    shutil.rmtree(path / "catalog")
    with reading(path) as repository, repository.catalog.view() as view:
        assert len(view.point_ids()) == 1

    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "the catalog is missing or empty: rebuilding it from 1 packs"


def test_readers_need_no_lock(path: Path) -> None:
    with held(path), reading(path) as repository, repository.catalog.view() as view:
        assert view.vms() == {}


def test_a_killed_holder_leaves_the_lock_free_and_a_mark(path: Path) -> None:
    with held(path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        lock = WriterLock(path / "locks" / "writer")

    assert lock.was_left_behind
    lock.release(is_clean=True)


def test_a_holder_that_ended_well_leaves_no_mark(path: Path) -> None:
    with held(path) as holder:
        holder.communicate("\n")
    lock = WriterLock(path / "locks" / "writer")

    assert not lock.was_left_behind
    lock.release(is_clean=True)


def test_after_a_killed_holder_the_catalog_is_verified(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    verified: list[Path] = []

    def verify(folder: Path) -> None:
        verified.append(folder)

    monkeypatch.setattr("cbtfs.store.catalog.gate.verify", verify)
    for _ in range(2):
        with writing(path):
            pass

    assert verified == [path / "catalog"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"{}", b'{"pid": 1}', b'{"pid": {}, "host": 1', b"x" * 10_000],
)
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path: Path, content: bytes) -> None:
    first = WriterLock(tmp_path / "writer")
    (tmp_path / "writer").write_bytes(content)

    with pytest.raises(RepositoryLocked, match="another process"):
        WriterLock(tmp_path / "writer")
    first.release(is_clean=True)


def test_a_holder_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    first = WriterLock(tmp_path / "writer")
    (tmp_path / "writer").write_bytes(
        b'{"pid": 1, "host": "\\u001b[2J", "since": "\\n", "command": "\\u202e"}'
    )

    with pytest.raises(RepositoryLocked) as caught:
        WriterLock(tmp_path / "writer")
    first.release(is_clean=True)
    assert str(caught.value).isprintable()


def test_a_lock_that_may_not_be_opened_is_a_matter_of_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(AccessDenied, match="owner"):
        WriterLock(tmp_path / "writer")


def test_a_lock_ends_with_its_descriptor(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        WriterLock(tmp_path / "writer").release(is_clean=True)

    assert set(os.listdir("/proc/self/fd")) == before


def is_left_behind(path: Path) -> bool:
    """Return whether the last writer left its record in the lock, like a killed writer."""
    lock = WriterLock(path / "locks" / "writer")
    lock.release(is_clean=True)
    return lock.was_left_behind


@pytest.mark.parametrize(
    ("error", "is_left"),
    [
        (StoreFailed, True),
        (SourceUnavailable, False),
        (KeyboardInterrupt, False),
        (None, False),
    ],
)
def test_only_a_failed_store_leaves_the_catalog_in_doubt(
    path: Path, error: type[BaseException] | None, is_left: bool
) -> None:
    with contextlib.suppress(CbtfsError, KeyboardInterrupt), writing(path):
        if error is not None:
            raise error("planted")

    assert is_left_behind(path) == is_left


def test_a_writer_that_fails_to_open_leaves_the_catalog_in_doubt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_point(path, {"disk": b"x" * 4096})

    def fail(folder: PackFolder) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(PackFolder, "ids", fail)
    with pytest.raises(StoreFailed) as error, writing(path):
        pass
    monkeypatch.undo()

    assert is_left_behind(path)
    with writing(path) as repository:  # its catalog was closed, or it could not be opened again
        assert repository.findings.is_empty
    assert error.tb is not None  # which holds what was not closed


def test_a_pack_is_opened_once(path: Path) -> None:
    add_point(path, {"disk": b"x" * 4096})
    packs = packs_at(path / "packs")
    (pack,) = packs.ids()

    assert packs.open(pack) is packs.open(pack)


def test_a_rebuild_that_fails_leaves_the_catalog_in_doubt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_point(path, {"disk": b"x" * 4096})

    def fail(self: Pack, *_: object) -> None:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(Pack, "__init__", fail)
        with pytest.raises(DataCorrupt):
            rebuild_catalog(path)

    assert is_left_behind(path)
    rebuild_catalog(path)
    assert not is_left_behind(path)
