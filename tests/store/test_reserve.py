"""The reserve: created with enough free space, removed at low space, created again."""

import os
from pathlib import Path

import pytest

from cbtfs.errors import StoreFailed
from cbtfs.repair import repair
from cbtfs.store import repository as store
from cbtfs.store import reserve
from cbtfs.store.repository import writing
from tests.make_points import new_repository

TIGHT = 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = new_repository(tmp_path / "repo")
    with writing(path):
        """The first writer creates the reserve."""
    return path


def test_the_first_writer_creates_a_reserve_that_takes_space(path: Path) -> None:
    facts = (path / "reserve").stat()

    assert facts.st_size == facts.st_blocks * 512 >= 1 << 20


def test_the_reserve_is_removed_at_low_space_and_created_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "free_bytes", lambda _: TIGHT)

    with reserve.released(path), writing(path):
        assert not (path / "reserve").exists()

    assert (path / "reserve").stat().st_size >= 1 << 20


def test_the_reserve_stays_if_space_is_plentiful(path: Path) -> None:
    inode = (path / "reserve").stat().st_ino

    with reserve.released(path):
        assert (path / "reserve").stat().st_ino == inode


def test_the_reserve_takes_as_much_as_is_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the campaign "full", seed 1: others used the space that a prune had freed."""
    real = os.posix_fallocate

    def fallocate(fd: int, offset: int, length: int) -> None:
        if length > 300_000:
            raise OSError(28, os.strerror(28))
        real(fd, offset, length)

    monkeypatch.setattr(reserve, "free_bytes", lambda _: TIGHT)
    monkeypatch.setattr(os, "posix_fallocate", fallocate)

    with reserve.released(path):
        """Nothing is freed."""

    assert 100_000 < (path / "reserve").stat().st_size <= 300_000


def test_a_planted_link_is_left_alone(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (path / "reserve").unlink()
    (path / "reserve").symlink_to(victim)

    with writing(path):
        """Nothing is written through the link."""

    assert victim.read_bytes() == b"mine"


def test_a_lock_folder_that_cannot_be_made_is_a_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the campaign "calls", seed 1: repair ended with a traceback."""

    def fail(path: Path) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(store, "make_folder", fail)

    with pytest.raises(StoreFailed, match="Input/output"):
        repair(path)
