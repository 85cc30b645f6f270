"""The guarantees that the model of storage assumes, and those that it does not."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.crash.storage import LOSS_MODES, SECTOR, FileTree, Inode, LossMode, Storage

pytestmark = pytest.mark.mounts

OLD, NEW = b"o" * 2 * SECTOR, b"n" * 2 * SECTOR


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Folder with one file."""
    (tmp_path / "file").write_bytes(OLD)
    return Storage(tmp_path)


def states(storage: Storage, at: int) -> Iterator[FileTree]:
    """Yield many possible states after a power cut at moment *at*."""
    rnd = random.Random(1)
    for _ in range(100):
        for mode in LOSS_MODES:
            yield storage.state(at, mode, rnd)


def state(storage: Storage, at: int, mode: LossMode) -> FileTree:
    return storage.state(at, mode, random.Random(1))


def overwrite(storage: Storage, *, lasts: bool = False) -> Inode:
    """Overwrite the file from moment 10 to 11."""
    file = storage.root.entries["file"]
    file.write(10, 11, 0, NEW, lasts=lasts)
    return file


def test_an_unflushed_write_may_be_lost_kept_or_torn_by_sector(storage: Storage) -> None:
    overwrite(storage)

    contents = {tree["file"] for tree in states(storage, 12)}

    half = SECTOR
    assert contents == {OLD, NEW, OLD[:half] + NEW[half:], NEW[:half] + OLD[half:]}


def test_a_write_is_durable_once_a_later_flush_has_returned(storage: Storage) -> None:
    overwrite(storage).syncs.append((12, 14))

    assert {tree["file"] for tree in states(storage, 15)} == {NEW}
    assert OLD in {tree["file"] for tree in states(storage, 14)}


def test_a_flush_that_began_during_a_write_guarantees_nothing(storage: Storage) -> None:
    file = storage.root.entries["file"]
    file.write(10, 13, 0, NEW, lasts=False)
    file.syncs.append((12, 14))

    assert OLD in {tree["file"] for tree in states(storage, 20)}


def test_a_synchronous_write_needs_no_flush(storage: Storage) -> None:
    overwrite(storage, lasts=True)

    assert {tree["file"] for tree in states(storage, 12)} == {NEW}


def test_a_write_that_has_not_begun_is_never_present(storage: Storage) -> None:
    overwrite(storage)

    assert {tree["file"] for tree in states(storage, 10)} == {OLD}


def test_a_durable_sector_includes_earlier_writes(storage: Storage) -> None:
    file = storage.root.entries["file"]
    file.write(10, 11, 0, b"a", lasts=False)
    file.write(12, 13, 1, b"b", lasts=True)

    assert {tree["file"] for tree in states(storage, 14)} == {b"ab" + OLD[2:]}


def test_bytes_that_were_never_written_are_zeros(storage: Storage) -> None:
    file = storage.root.entries["file"]
    file.write(10, 11, len(OLD), NEW, lasts=False)
    file.write(12, 13, 4 * SECTOR, b"end", lasts=True)

    content = state(storage, 14, "lost")["file"]

    assert content == OLD + bytes(2 * SECTOR) + b"end"


def test_an_unflushed_truncation_may_be_lost(storage: Storage) -> None:
    storage.root.entries["file"].resize(10, 11, 5)

    assert {tree["file"] for tree in states(storage, 12)} == {OLD, OLD[:5]}


def new_file(storage: Storage, name: str, at: int) -> Inode:
    file = Inode(is_folder=False)
    storage.rebind(at, at + 1, (storage.root, name, file))
    return file


def test_a_flushed_file_may_have_no_name_until_its_folder_is_flushed(storage: Storage) -> None:
    new_file(storage, "new", 10).syncs.append((12, 13))
    assert "new" not in state(storage, 14, "lost")

    storage.root.syncs.append((14, 15))

    assert all("new" in tree for tree in states(storage, 16))


def test_a_name_may_be_durable_before_the_bytes(storage: Storage) -> None:
    new_file(storage, "new", 10).write(12, 13, 0, NEW, lasts=False)
    storage.root.syncs.append((14, 15))

    assert state(storage, 16, "names")["new"] == b""


def test_a_rename_is_atomic(storage: Storage) -> None:
    file = storage.root.entries["file"]
    storage.rebind(10, 11, (storage.root, "file", None), (storage.root, "other", file))

    assert {(*tree,) for tree in states(storage, 12)} == {("file",), ("other",)}


def test_changes_of_one_name_keep_their_order(storage: Storage) -> None:
    file = new_file(storage, "aside", 10)
    storage.rebind(12, 13, (storage.root, "aside", None), (storage.root, "file", file))

    trees = {tuple(sorted(tree.items())) for tree in states(storage, 14)}

    before, made = (("file", OLD),), (("aside", b""), ("file", OLD))
    assert trees == {before, made, (("file", b""),)}


def test_changes_of_different_names_may_be_reordered(storage: Storage) -> None:
    new_file(storage, "a", 10)
    new_file(storage, "b", 12)

    trees = {tuple(sorted(tree)) for tree in states(storage, 14)}

    assert trees == {("file",), ("a", "file"), ("b", "file"), ("a", "b", "file")}


def test_the_content_of_a_folder_needs_the_name_of_the_folder(storage: Storage) -> None:
    folder = storage.make_folder()
    storage.rebind(10, 11, (storage.root, "folder", folder))
    storage.rebind(12, 13, (folder, "inner", Inode(is_folder=False)))
    folder.syncs.append((14, 15))

    assert (*state(storage, 16, "lost"),) == ("file",)
    assert (*state(storage, 16, "kept"),) == ("file", "folder", "folder/inner")
