"""Whatever gets a name was flushed before, and so is the directory, by the time it counts.

A whole life is watched: every file that was written and not flushed when it got its name, and
every file and directory that was not flushed in the end.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.core.ids import PackId
from cbtfs.core.manifest import PointState
from cbtfs.restore.disk import restore_disk
from cbtfs.restore.target import DeviceTarget
from cbtfs.store import files
from cbtfs.store.identity import new_pack_id
from cbtfs.store.repository import reading, writing
from tests.scenarios.repository_history import History, image
from tests.store.folders import packs_at

DERIVED: Final = ("catalog", "locks", "reserve")
"""LMDB flushes its files itself; a lock and the reserve are not needed after a crash."""


class Flushes:
    """Inodes with unflushed changes, with their paths."""

    def __init__(self) -> None:
        self.unflushed: dict[int, Path] = {}
        self.named_too_early: list[Path] = []

    def wrote(self, fd: int) -> None:
        self.unflushed[os.fstat(fd).st_ino] = Path(os.readlink(f"/proc/self/fd/{fd}"))

    def flushed(self, fd: int) -> None:
        self.unflushed.pop(os.fstat(fd).st_ino, None)

    def named(self, path: Path) -> None:
        """Record that *path* is new in its directory."""
        inode = path.stat().st_ino
        if inode in self.unflushed and not _is_derived(path):
            self.named_too_early.append(path)
        self.unflushed[path.parent.stat().st_ino] = path.parent
        if inode in self.unflushed:
            self.unflushed[inode] = path

    def left(self, folder: Path) -> list[Path]:
        """Return unflushed files and directories in *folder*."""
        there = {entry.stat().st_ino for entry in [folder, *folder.rglob("*")]}
        paths = [path for inode, path in self.unflushed.items() if inode in there]
        return [path for path in paths if not _is_derived(path.relative_to(folder.parent))]


def _is_derived(path: Path) -> bool:
    return any(part in DERIVED for part in path.parts)


@contextmanager
def watched() -> Iterator[Flushes]:
    """Record every call that writes, renames or flushes, until the end of the block."""
    flushes = Flushes()
    with pytest.MonkeyPatch.context() as patch:

        def after(name: str, note: Callable[..., None]) -> None:
            real = getattr(os, name)

            def call(*arguments: Any, **named: Any) -> Any:
                result = real(*arguments, **named)
                note(*arguments)
                return result

            patch.setattr(os, name, call)

        for name in ("write", "writev", "pwrite", "pwritev", "ftruncate"):
            after(name, lambda fd, *_: flushes.wrote(fd))
        after("fsync", flushes.flushed)
        for name in ("rename", "replace", "link"):
            after(name, lambda _, new, *__: flushes.named(Path(new)))
        after("mkdir", lambda path, *_: flushes.named(Path(path)))
        yield flushes


def test_a_whole_life_leaves_nothing_unflushed(tmp_path: Path) -> None:
    with watched() as flushes:
        history = History(tmp_path / "repository")
        base = history.add(image(*range(1, 60)))
        kept = history.add(image(*range(1, 20), *range(100, 140)))
        history.forget(base, history.add(image(*range(300, 340))))
        assert history.prune().rewritten_bytes > 0
        with writing(history.path) as repository:
            repository.put_states([PointState(kept, tags=("a",))])
    history.verify()

    assert flushes.named_too_early == []
    assert flushes.left(history.path) == []


def test_a_pack_that_is_closed_is_flushed_and_so_is_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "packs"
    folder.mkdir()
    with watched() as flushes:
        pack: PackId = new_pack_id()
        writer = packs_at(folder).create(pack)
        writer.close()

    assert flushes.named_too_early == []
    assert flushes.left(folder) == []


@pytest.mark.parametrize("is_there", [False, True])
def test_a_restored_file_is_flushed_and_so_is_its_name(tmp_path: Path, is_there: bool) -> None:
    history = History(tmp_path / "repository")
    point = history.add(image(1, 0, 2))
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "disk.raw"
    if is_there:
        target.touch()
    with watched() as flushes, reading(history.path) as repository:
        disk = history.manifests[point].disks[0]
        restore_disk(repository, point, disk, target, may_overwrite=is_there)

    assert target.read_bytes() == image(1, 0, 2)
    assert flushes.named_too_early == []
    assert flushes.left(folder) == []


def test_a_device_is_flushed_at_the_end(tmp_path: Path) -> None:
    """A file replaces the device: the calls are the same."""
    file = tmp_path / "device"
    fd = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        with watched() as flushes:
            target = DeviceTarget(fd)
            target.write(0, b"data")
            assert flushes.unflushed
            target.finish()
        assert flushes.unflushed == {}
    finally:
        os.close(fd)


def test_a_file_without_a_flush_is_found_by_this_watch(tmp_path: Path) -> None:
    with watched() as flushes:
        fd = files.create(tmp_path / "aside")
        os.write(fd, b"data")
        os.close(fd)
        os.rename(tmp_path / "aside", tmp_path / "name")

    assert flushes.named_too_early == [tmp_path / "name"]
    assert set(flushes.left(tmp_path)) == {tmp_path / "name", tmp_path}
