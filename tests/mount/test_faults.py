import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.make_points import BLOCK
from tests.mount.mount_process import Server, serving

pytestmark = pytest.mark.mounts

_FAULTY = """
from pathlib import Path
from cbtfs.cli.main import run
from cbtfs.mount.filesystem import FileSystem
from cbtfs.reader import Disk
{first}
real = {name}
def faulty(*arguments):
    if not Path({trigger!r}).exists():
        return real(*arguments)
    {fault}
{name} = faulty
run()
"""


@contextmanager
def _faulty(
    repository: Path, folder: Path, name: str, fault: str, first: str = ""
) -> Iterator[tuple[Server, Path]]:
    """Mount with a method *name* that executes *fault* while the yielded file exists."""
    trigger = folder / "trigger"
    code = _FAULTY.format(name=name, trigger=str(trigger), fault=fault, first=first)
    with serving(
        repository, folder / "mnt", "--workers=1", program=(sys.executable, "-c", code)
    ) as server:
        yield server, trigger
    assert server.wait() == 0


def _read_direct(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def _first_hole(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE)
    finally:
        os.close(fd)


USES: dict[str, Callable[[Server, Manifest], object]] = {
    "FileSystem.lookup": lambda server, point: server.disk(point).lstat(),
    "FileSystem.entry": lambda server, point: (server.folder(point) / "vm.json").stat(),
    "FileSystem.entries": lambda server, point: os.listdir(server.root),
    "FileSystem.target": lambda server, point: os.readlink(server.root / "vm" / "latest"),
    "FileSystem.open": lambda server, point: _read_direct(server.disk(point)),
    "FileSystem.read": lambda server, point: (server.folder(point) / "vm.json").read_bytes(),
    "FileSystem.prepare_seek": lambda server, point: _first_hole(server.disk(point)),
}
UNPREPARED = "FileSystem.prepare = lambda *_: False"
"""Make FileSystem.read answer all reads."""


@pytest.mark.parametrize("name", USES)
def test_an_exception_in_a_request_is_eio_and_the_mount_continues(
    repository: Path, point: Manifest, tmp_path: Path, name: str
) -> None:
    with _faulty(repository, tmp_path, name, "raise ValueError('injected')") as (server, trigger):
        trigger.touch()
        with pytest.raises(OSError, match="Input/output error"):
            USES[name](server, point)
        trigger.unlink()

        USES[name](server, point)
        assert "this is a bug" in server.log.readline()


def test_a_failed_release_is_logged_and_the_mount_continues(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    fault = "raise ValueError('injected')"
    with _faulty(repository, tmp_path, "FileSystem.close", fault) as (server, trigger):
        trigger.touch()
        server.disk(point).read_bytes()
        assert "this is a bug" in server.log.readline()
        trigger.unlink()

        assert _read_direct(server.disk(point)) == image


def test_a_read_is_answered_although_its_preparation_fails(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    fault = "raise ValueError('injected')"
    with _faulty(repository, tmp_path, "FileSystem.prepare", fault) as (server, trigger):
        trigger.touch()

        assert _read_direct(server.disk(point)) == image


@pytest.mark.parametrize("fault", ["return real(*arguments)[:-1]", "return b'much' * 1000000"])
def test_a_read_of_the_wrong_length_is_eio(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path, fault: str
) -> None:
    with _faulty(repository, tmp_path, "Disk.read", fault, UNPREPARED) as (server, trigger):
        trigger.touch()
        with pytest.raises(OSError, match=r".") as caught:
            _read_direct(server.disk(point))
        trigger.unlink()

        assert caught.value.errno == errno.EIO
        assert "expected" in server.log.readline()
        assert _read_direct(server.disk(point)) == image


def test_a_damaged_block_map_is_eio_and_never_a_hole(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    fault = "raise CatalogDamaged('injected')"
    first = "from cbtfs.store.catalog.view import View, CatalogDamaged"
    with _faulty(repository, tmp_path, "View.node", fault, first) as (server, trigger):
        trigger.touch()
        for kind in (os.SEEK_HOLE, os.SEEK_DATA):
            with (
                server.disk(point).open("rb") as file,
                pytest.raises(OSError, match=r".") as caught,
            ):
                os.lseek(file.fileno(), 9 * BLOCK, kind)
            assert caught.value.errno == errno.EIO
        trigger.unlink()

        assert _first_hole(server.disk(point)) == 8 * BLOCK
        assert f"cannot read point {point.point}, disk disk: " in server.log.readline()


def test_a_seek_fails_if_its_worker_is_killed_and_then_succeeds(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    fault = "import os; os.kill(os.getpid(), 9)"
    with _faulty(repository, tmp_path, "FileSystem.prepare_seek", fault) as (server, trigger):
        (worker,) = server.workers()
        with server.disk(point).open("rb") as file:
            trigger.touch()
            with pytest.raises(OSError, match=r"."):
                os.lseek(file.fileno(), 0, os.SEEK_HOLE)
            trigger.unlink()

            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 8 * BLOCK
        assert server.workers().isdisjoint({worker})
