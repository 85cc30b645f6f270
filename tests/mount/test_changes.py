import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import writing
from tests.make_points import BLOCK, add_point
from tests.mount.mount_process import Server, forget, kill, serving, wait_until

pytestmark = pytest.mark.mounts


def test_a_new_point_appears_in_a_running_mount(
    mounted: Server, repository: Path, image: bytearray
) -> None:
    os.listdir(mounted.root / "vm")

    newer = add_point(repository, {"disk": bytes(image)})

    assert wait_until(lambda: newer.name in os.listdir(mounted.root / "vm"))
    assert mounted.disk(newer).read_bytes() == image


def test_a_forgotten_point_disappears_from_the_mount(
    mounted: Server, repository: Path, image: bytearray, point: Manifest
) -> None:
    add_point(repository, {"disk": bytes(image)})
    mounted.disk(point).stat()

    forget(repository, point.point)

    assert wait_until(lambda: not mounted.disk(point).exists())


def test_an_open_file_stays_readable_after_its_point_is_forgotten(
    mounted: Server, repository: Path, image: bytearray, point: Manifest
) -> None:
    with open(mounted.disk(point), "rb") as file:
        forget(repository, point.point)
        assert wait_until(lambda: not (mounted.root / "vm").exists())

        assert file.read() == image
        assert os.fstat(file.fileno()).st_size == len(image)


def test_an_open_file_stays_readable_after_its_point_and_all_workers_are_gone(
    mounted: Server, repository: Path, image: bytearray, point: Manifest
) -> None:
    with open(mounted.disk(point), "rb", buffering=0) as file:
        forget(repository, point.point)
        for worker in mounted.workers():
            kill(worker)
            mounted.log.readline()

        assert wait_until(lambda: _succeeds(lambda: os.pread(file.fileno(), BLOCK, 0)))
        assert os.pread(file.fileno(), len(image), 0) == image


def test_an_open_file_is_leased_and_a_closed_one_is_not(
    mounted: Server, repository: Path, point: Manifest
) -> None:
    def is_leased() -> bool:
        status = (repository / "points" / point.point).stat()
        inode = f":{status.st_ino} "
        return any(inode in line for line in Path("/proc/locks").read_text().splitlines())

    with open(mounted.disk(point), "rb") as file:
        file.read(1)
        assert is_leased()

    assert wait_until(lambda: not is_leased())


def test_a_mount_follows_a_deleted_and_rebuilt_catalog(
    mounted: Server, repository: Path, image: bytearray, point: Manifest
) -> None:
    shutil.rmtree(repository / "catalog")
    assert mounted.disk(point).read_bytes() == image

    with writing(repository):
        pass
    newer = add_point(repository, {"disk": bytes(image[: 3 * BLOCK])})

    assert wait_until(lambda: newer.name in os.listdir(mounted.root / "vm"))
    assert mounted.disk(newer).read_bytes() == image[: 3 * BLOCK]
    assert mounted.disk(point).read_bytes() == image


def test_rebuilding_the_catalog_does_not_disturb_readers(
    mounted: Server, repository: Path, image: bytearray, point: Manifest, tmp_path: Path
) -> None:
    failures: list[str] = []
    is_done = threading.Event()

    def read() -> None:
        fd = os.open(mounted.disk(point), os.O_RDONLY | os.O_DIRECT)
        while not is_done.is_set() and not failures:
            try:
                if os.pread(fd, len(image), 0) != image or not os.listdir(mounted.root / "vm"):
                    failures.append("other bytes, or no points")
            except OSError as exc:
                failures.append(str(exc))
        os.close(fd)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(30):
            # One rename, because a worker may create files in the directory during an rmtree().
            (repository / "catalog").rename(tmp_path / f"deleted-{number}")
            assert wait_until(lambda: (mounted.root / "vm" / point.name).exists())
            with writing(repository):
                pass
    finally:
        is_done.set()
        reader.join()

    assert failures == []


def test_a_mount_follows_an_overwritten_catalog_once_it_is_complete(
    repository: Path, image: bytearray, point: Manifest, tmp_path: Path
) -> None:
    file = repository / "catalog" / "data.mdb"
    old = file.read_bytes()
    newer = add_point(repository, {"disk": bytes(image)})

    with serving(repository, tmp_path / "mnt", "--workers=1") as server:
        names = {"latest", point.name, newer.name}
        assert set(os.listdir(server.root / "vm")) == names
        with open(file, "r+b") as target:
            target.write(old[: 2 * 4096])
        wait_until(lambda: not _succeeds(lambda: os.listdir(server.root / "vm")), seconds=1.5)
        file.write_bytes(old)

        assert wait_until(lambda: _lists(server.root / "vm", {"latest", point.name}))
        assert server.disk(point).read_bytes() == image


def _lists(folder: Path, names: set[str]) -> bool:
    try:
        return set(os.listdir(folder)) == names
    except OSError:
        return False


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "write": lambda folder, disk: os.open(disk, os.O_WRONLY),
    "append": lambda folder, disk: os.open(disk, os.O_RDWR | os.O_APPEND),
    "truncate": lambda folder, disk: os.truncate(disk, 0),
    "chmod": lambda folder, disk: disk.chmod(0o777),
    "chown": lambda folder, disk: os.chown(disk, 1, 1),
    "utime": lambda folder, disk: os.utime(disk),
    "create": lambda folder, disk: (folder / "new").touch(),
    "mkdir": lambda folder, disk: (folder / "new").mkdir(),
    "mknod": lambda folder, disk: os.mkfifo(folder / "new"),
    "symlink": lambda folder, disk: (folder / "new").symlink_to("x"),
    "link": lambda folder, disk: os.link(disk, folder / "new"),
    "rename": lambda folder, disk: disk.rename(folder / "new"),
    "unlink": lambda folder, disk: disk.unlink(),
    "rmdir": lambda folder, disk: folder.rmdir(),
    "setxattr": lambda folder, disk: os.setxattr(disk, "user.a", b"b"),
    "removexattr": lambda folder, disk: os.removexattr(disk, "user.a"),
}


def test_every_change_fails_with_erofs(mounted: Server, point: Manifest, image: bytearray) -> None:
    disk = mounted.disk(point)
    refused = {}
    for name, change in CHANGES.items():
        with pytest.raises(OSError, match=r".") as caught:
            change(disk.parent, disk)
        refused[name] = caught.value.errno

    assert refused == dict.fromkeys(CHANGES, errno.EROFS)
    assert disk.read_bytes() == image


def test_extended_attributes_are_not_supported(mounted: Server, point: Manifest) -> None:
    disk = mounted.disk(point)

    for ask in (lambda: os.getxattr(disk, "user.a"), lambda: os.listxattr(disk)) * 2:
        with pytest.raises(OSError, match=r".") as caught:
            ask()
        assert caught.value.errno == errno.ENOTSUP


def _succeeds(read: Callable[[], object]) -> bool:
    try:
        read()
    except OSError:
        return False
    return True
