"""Points are forgotten under mounts: open files stay readable, closing them frees the space."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.prune.result import PruneResult
from tests.make_points import BLOCK
from tests.mount.mount_process import Server, serving, wait_until
from tests.scenarios.repository_history import History, image
from tools.crash.child import Send, run_child

pytestmark = pytest.mark.mounts

LONG = image(*range(1, 60), *[0] * 5, *range(60, 90))
HOLE = 59 * BLOCK, 64 * BLOCK


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "repo")
    history.add(image(7))
    return history


@pytest.fixture
def mounted(history: History, tmp_path: Path) -> Iterator[Server]:
    with serving(history.path, tmp_path / "mnt") as server:
        yield server


def prune(history: History) -> dict[str, int]:
    """Prune in a separate process; return its message."""

    def work(send: Send) -> None:
        outcome: PruneResult = history.prune()
        send({"leased": outcome.leased, "freed": outcome.freed_bytes})

    outcome = run_child(work)
    assert outcome.code == 0, outcome.messages
    (message,) = outcome.messages
    return message


def test_an_open_file_stays_readable_through_forget_and_prune(
    history: History, tmp_path: Path
) -> None:
    gone = history.add(LONG)
    history.add(image(8))
    manifest = history.manifests[gone]
    with serving(history.path, tmp_path / "mnt", "--workers", "2") as server:
        path = server.disk(manifest)
        fd = os.open(path, os.O_RDONLY)
        try:
            assert os.pread(fd, 10, 0) == LONG[:10]
            history.forget(gone)
            assert prune(history) == {"leased": 1, "freed": 0}
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

            hole = os.lseek(fd, 0, os.SEEK_HOLE)
            assert (hole, os.lseek(fd, hole, os.SEEK_DATA)) == HOLE
            assert os.pread(fd, len(LONG), 0) == LONG
            assert wait_until(lambda: not path.exists())
        finally:
            os.close(fd)
        assert wait_until(lambda: prune(history)["freed"] > len(LONG) // 2)
    history.verify()


def test_a_loop_device_on_a_forgotten_point_stays_readable(
    history: History, mounted: Server
) -> None:
    gone = history.add(LONG)
    manifest = history.manifests[gone]
    assert wait_until(mounted.disk(manifest).exists)
    device = subprocess.run(
        ["losetup", "-r", "-f", "--show", mounted.disk(manifest)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    try:
        history.forget(gone)
        assert prune(history)["leased"] == 1

        assert Path(device).read_bytes() == LONG[: len(LONG) // 512 * 512]
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_remaining_points_stay_readable_while_others_are_removed(
    history: History, mounted: Server
) -> None:
    base = history.add(image(*range(1, 30), *range(200, 240)))
    kept = history.add(image(*range(1, 30)) + image(*range(300, 340)))
    disk = mounted.disk(history.manifests[kept])
    assert wait_until(disk.exists)
    expected = history.expected[kept]["disk"]
    assert disk.read_bytes() == expected
    history.forget(base)

    assert prune(history)["freed"] > 0

    with disk.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == expected
