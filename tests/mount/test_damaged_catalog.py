"""A catalog that rots under a mount: no byte is wrong, and the mount goes on once it is mended."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.repair import repair
from tests.mount.mount_process import Server, serving, wait_until

pytestmark = pytest.mark.mounts

_PAGE = 4096


def put_garbage_in_place(data: Path) -> None:
    """Another file, under the name of this one."""
    other = data.with_name("other")
    other.write_bytes(b"garbage" * 1000)
    other.rename(data)


def fill_pages_with_noise(data: Path) -> None:
    """All but those that LMDB looks at to open it."""
    size = data.stat().st_size
    with data.open("r+b") as file:
        file.seek(2 * _PAGE)
        file.write(random.Random(1).randbytes(size - 2 * _PAGE))


def cut(data: Path) -> None:
    """No page is there any more: to touch one is a SIGBUS."""
    os.truncate(data, 2 * _PAGE)


def empty(data: Path) -> None:
    os.truncate(data, 0)


def never_reads_wrong(server: Server, point: Manifest, image: bytes) -> bool:
    """Whether the disk reads right, when it can be read."""
    try:
        with server.disk(point).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found = file.read()
    except OSError:
        return False
    assert found == image
    return True


@pytest.mark.parametrize("damage", [put_garbage_in_place, fill_pages_with_noise, cut, empty])
def test_a_mount_outlives_its_catalog_and_goes_on_when_it_is_mended(
    repository: Path,
    point: Manifest,
    image: bytearray,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    with serving(repository, tmp_path / "mnt", "--workers=2") as server:
        assert never_reads_wrong(server, point, bytes(image))

        damage(repository / "catalog" / "data.mdb")
        for _ in range(20):
            never_reads_wrong(server, point, bytes(image))
            never_reads_wrong(server, point, bytes(image))
        repair(repository, lock_wait=30)

        assert wait_until(lambda: never_reads_wrong(server, point, bytes(image)))
        assert server.process.poll() is None
    assert server.wait() == 0


@pytest.mark.parametrize("damage", [cut, empty])
def test_a_mount_whose_workers_were_ended_by_the_catalog_mends_it(
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

        assert wait_until(lambda: never_reads_wrong(server, point, bytes(image)))
        assert "run 'cbtfs repair'" in server.log.readline()
    assert server.wait() == 0
