"""Temporary directories and mounts of killed commands are removed by the next command."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cbtfs.mount.mounts import mounts
from cbtfs.mount.scratch import scratch_directory
from tests.make_points import add_point, new_repository

pytestmark = pytest.mark.mounts

PREFIX: Final = "cbtfs-restore-"
_MOUNT: Final = """
import sys
from pathlib import Path
from cbtfs.mount.private import private_mount
with private_mount(Path(sys.argv[1])) as mounted:
    print(mounted.process, mounted.mountpoint, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of temporary files, which only this test uses."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return path


def test_a_dead_private_mount_is_removed_by_the_next_command(folder: Path, tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repo")
    add_point(repository, {"root": b"1" * 4096})
    with subprocess.Popen(
        [sys.executable, "-c", _MOUNT, repository],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as child:
        assert child.stdout is not None
        server, mountpoint = child.stdout.readline().split()
        with scratch_directory(PREFIX):  # the mount is in use: it stays
            assert Path(mountpoint).is_mount()
        workers = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        processes = [os.pidfd_open(int(process)) for process in (server, *workers)]
        for process in (child.pid, int(server)):
            os.kill(process, signal.SIGKILL)
        for descriptor in processes:
            assert select.select([descriptor], [], [], 60)[0]
            os.close(descriptor)
    assert mountpoint in [mount.path for mount in mounts()]

    with scratch_directory(PREFIX) as own:
        assert os.listdir(folder) == [own.name]

    assert os.listdir(folder) == []
    assert mountpoint not in [mount.path for mount in mounts()]


def test_directories_of_others_and_of_running_commands_stay(folder: Path) -> None:
    for name in ("cbtfs-restore-left", "other", "cbtfs-restore-of-another-user"):
        (folder / name).mkdir()
        (folder / name / "daemon.pid").touch()
    os.chown(folder / "cbtfs-restore-of-another-user", 65534, 65534)
    (folder / "cbtfs-restore-link").symlink_to(folder / "other")

    with scratch_directory(PREFIX) as first, scratch_directory(PREFIX) as second:
        present = {*os.listdir(folder)}

    assert present == {
        *("other", "cbtfs-restore-of-another-user", "cbtfs-restore-link"),
        *(first.name, second.name),
    }
    assert os.listdir(folder / "other") == ["daemon.pid"]
