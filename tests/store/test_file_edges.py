"""Edge cases of repository files: no space, no atomic swap, leaked descriptors."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from cbtfs.core.distrust import Distrust
from cbtfs.core.ids import DiskId, PointId
from cbtfs.errors import DataCorrupt, StoreFailed
from cbtfs.store import files, reserve
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.distrust import DistrustFolder
from tests.make_points import new_repository
from tests.store.folders import points_at

DISK = DiskId("d1" * 16)
RECORD = Distrust(DISK, PointId("b" * 32), 7, None, None, None)


def test_files_change_places_where_the_file_system_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    new, path = tmp_path / "new", tmp_path / "file"
    new.write_text("new")
    path.write_text("old")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)

    files.exchange(new, path)

    contents = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert contents == {"new": "old", "file": "new"}


def test_a_replaced_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        files.replace(tmp_path / "file", b"%d" % number)

    assert len(os.listdir("/proc/self/fd")) < before + 20


def test_the_smallest_reserve_is_64_kib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def make(_: Path, wanted: int) -> None:
        assert wanted, "a reserve of nothing is of no use"
        tried.append(wanted)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reserve, "_make", make)
    with reserve.released(tmp_path):
        """No space becomes free."""

    assert tried == [1 << bits for bits in range(20, 15, -1)]


def test_a_find_that_the_source_confirmed_is_recorded_as_such(tmp_path: Path) -> None:
    folder = DistrustFolder(new_repository(tmp_path / "repository"))
    armed = folder.arm(RECORD)
    armed.fire()
    armed.count(3)
    counted = folder.load(DISK)
    armed.confirm()
    confirmed = folder.load(DISK)

    assert counted is not None
    assert (counted.blocks, counted.is_confirmed) == (3, False)
    assert confirmed is not None
    assert (confirmed.blocks, confirmed.is_confirmed) == (3, True)


def test_a_manifest_that_cannot_be_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder = points_at(tmp_path)
    monkeypatch.setattr("cbtfs.store.backend.local.open_regular", fail)

    with pytest.raises(DataCorrupt, match="cannot read manifest"):
        folder.read_manifest(PointId("c" * 32))


def test_a_catalog_without_space_for_its_lock_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", fail)

    with pytest.raises(StoreFailed, match="for its lock; it is unchanged"):
        Catalog(tmp_path / "catalog", is_writable=True)
