"""What mount and umount print: obstacles, and the holders of a mount."""

import subprocess
from pathlib import Path

import pytest

from tests.make_points import BLOCK, add_point, new_repository
from tests.mount.mount_process import PROGRAM

pytestmark = pytest.mark.mounts


def _run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "my mount"
    path.mkdir()
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose only disk has a file system."""
    image = tmp_path / "image"
    image.write_bytes(bytes(256 * BLOCK))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image], check=True)
    path = new_repository(tmp_path / "repository")
    add_point(path, {"disk": image.read_bytes()})
    return path


def test_umount_names_the_file_system_on_the_loop_device(
    repository: Path, mountpoint: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    disk = mountpoint / "vm" / "latest" / "disk.raw"
    assert _run("mount", "-r", repository, mountpoint).returncode == 0
    disk = disk.resolve()
    loop = ["losetup", "--read-only", "--find", "--show", str(disk)]
    device = subprocess.run(loop, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", "-o", "ro", device, inner], check=True)
        busy = _run("umount", mountpoint)
        subprocess.run(["umount", inner], check=True)
        detached = _run("umount", mountpoint)
    finally:
        subprocess.run(["umount", "-q", inner], check=False)
        subprocess.run(["losetup", "--detach", device], check=True)
        ended = _run("umount", mountpoint)

    assert (busy.returncode, busy.stderr.count("\n")) == (40, 1)
    assert f"{device} on {disk} ({device} is mounted on {inner})" in busy.stderr
    assert "unmount, detach and close these first" in busy.stderr
    assert "is mounted on" not in detached.stderr
    assert ended.returncode == 0


CONTAINER = "this container may not open /dev/fuse"


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        ("mknod fuse c 10 250", "/dev/fuse is not the FUSE device"),
        ("touch fuse", "/dev/fuse is not the FUSE device"),
        ("mkdir d; mount -t tmpfs -o nodev t d; mknod d/fuse c 10 229; cd d", CONTAINER),
        ("mknod fuse c 10 229; LIMIT='setpriv --bounding-set=-sys_admin'", "CAP_SYS_ADMIN"),
    ],
)
def test_an_unusable_device_is_reported_before_libfuse_prints(
    repository: Path, mountpoint: Path, tmp_path: Path, prepare: str, reason: str
) -> None:
    command = " ".join(PROGRAM)
    script = f"""
        set -e
        mount --make-rprivate /
        {prepare}
        chmod 666 fuse
        mount --bind fuse /dev/fuse
        $LIMIT {command} mount -r '{repository}' '{mountpoint}'
    """

    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr.count("\n")) == (40, 1), done.stderr
    assert reason in done.stderr
