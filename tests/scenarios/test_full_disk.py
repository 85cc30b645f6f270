"""A full disk causes an error, never the death of the process by a signal."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.store.catalog.environment import Environment
from tools.crash.child import ChildExit, run_child
from tools.crash.disks import fill_disk
from tools.crash.loop import LoopDisk, loop_disk

pytestmark = pytest.mark.mounts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path, "ext4", 32 << 20) as file_system:
        yield file_system


def opened(folder: Path, *, is_writable: bool) -> ChildExit:
    """Open and close a catalog in a child; return its exit."""
    return run_child(lambda send: Environment(folder, is_writable=is_writable).close())


def test_a_new_catalog_on_a_full_disk_fails_with_an_error(disk: LoopDisk) -> None:
    folders = [disk.mountpoint / f"catalog{n}" for n in range(4)]
    for folder in folders:
        folder.mkdir()
    filler = disk.mountpoint / "filler"
    fill_disk(filler, 0)

    ends = [opened(folder, is_writable=True) for folder in folders]

    assert ends[-1].code == 1
    assert "No space left" in ends[-1].values("error")[0]
    assert {end.code for end in ends} <= {0, 1}
    filler.unlink()
    assert [opened(folder, is_writable=True).code for folder in folders] == [0] * 4


def test_a_catalog_on_a_full_disk_opens_for_reading(disk: LoopDisk) -> None:
    folder = disk.mountpoint / "catalog"
    assert opened(folder, is_writable=True).code == 0
    fill_disk(disk.mountpoint / "filler", 0)

    assert opened(folder, is_writable=False).code == 0
