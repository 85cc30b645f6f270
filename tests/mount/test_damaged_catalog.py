"""Damage of the catalog of a running mount: no read returns wrong bytes, and the mount recovers."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.repair import repair
from tests.make_points import BLOCK
from tests.mount.mount_process import Server, serving, wait_until

pytestmark = pytest.mark.mounts

_PAGE = 4096


def replace_with_garbage(data: Path) -> None:
    """Replace the file with another one."""
    other = data.with_name("other")
    other.write_bytes(b"garbage" * 1000)
    other.rename(data)


def fill_pages_with_noise(data: Path) -> None:
    """Overwrite all pages except those that LMDB reads when it opens the file."""
    size = data.stat().st_size
    with data.open("r+b") as file:
        file.seek(2 * _PAGE)
        file.write(random.Random(1).randbytes(size - 2 * _PAGE))


def truncate(data: Path) -> None:
    """Cut the file so that an access to a data page is a SIGBUS."""
    os.truncate(data, 2 * _PAGE)


def empty(data: Path) -> None:
    os.truncate(data, 0)


def reads_correctly(server: Server, point: Manifest, image: bytes) -> bool:
    """Return False if the disk cannot be read; assert that its bytes are correct otherwise."""
    try:
        with server.disk(point).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            content = file.read()
    except OSError:
        return False
    assert content == image
    return True


def finds_the_hole(server: Server, point: Manifest) -> bool:
    """Return False if a seek fails; assert that its result is correct otherwise."""
    try:
        with server.disk(point).open("rb") as file:
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
            data = os.lseek(file.fileno(), hole, os.SEEK_DATA)
    except OSError:
        return False
    assert (hole, data) == (8 * BLOCK, 24 * BLOCK)
    return True


@pytest.mark.parametrize("damage", [replace_with_garbage, fill_pages_with_noise, truncate, empty])
def test_a_mount_survives_a_damaged_catalog_and_recovers_after_a_repair(
    repository: Path,
    point: Manifest,
    image: bytearray,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    with serving(repository, tmp_path / "mnt", "--workers=2") as server:
        assert reads_correctly(server, point, bytes(image))

        damage(repository / "catalog" / "data.mdb")
        for _ in range(20):
            finds_the_hole(server, point)
            reads_correctly(server, point, bytes(image))
            reads_correctly(server, point, bytes(image))
        repair(repository, lock_wait=30)

        assert wait_until(lambda: reads_correctly(server, point, bytes(image)))
        assert wait_until(lambda: finds_the_hole(server, point))
        assert server.process.poll() is None
    assert server.wait() == 0


@pytest.mark.parametrize("damage", [truncate, empty])
def test_workers_that_die_of_a_damaged_catalog_are_replaced_and_repair_it(
    repository: Path,
    point: Manifest,
    image: bytearray,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    with serving(repository, tmp_path / "mnt", "--workers=2") as server:
        workers = server.workers()
        damage(repository / "catalog" / "data.mdb")

        assert wait_until(lambda: workers.isdisjoint(server.workers()))

        assert wait_until(lambda: reads_correctly(server, point, bytes(image)))
        assert "run 'cbtfs repair'" in server.log.readline()
    assert server.wait() == 0
