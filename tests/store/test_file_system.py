"""File systems that cannot hold a repository, by the kernel's list of mounts."""

import os
from pathlib import Path

import pytest

from cbtfs.errors import UsageError
from cbtfs.store.file_system import file_system, refuse_unsuitable

REMOTE = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "fuse.s3fs"]


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that replaces the kernel's list of mounts."""
    file = tmp_path / "mountinfo"
    monkeypatch.setattr("cbtfs.store.file_system.MOUNTS", file)
    return file


def line(path: Path, kind: str, source: str, *, fields: str = "shared:1", minor: int = 0) -> str:
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device) + minor}"
    return f"36 35 {number} / /mnt rw,noatime {fields} - {kind} {source} rw\n"


def test_the_file_system_of_a_path_is_found_among_others(tmp_path: Path, mounts: Path) -> None:
    mounts.write_text(
        line(tmp_path, "nfs", "host:/x", minor=1)
        + "short\n"
        + line(tmp_path, "ext4", "/dev/sda1", fields="")
        + line(tmp_path, "nfs", "host:/y", minor=2)
    )

    assert file_system(tmp_path) == ("ext4", "/dev/sda1")


def test_a_file_system_that_is_not_listed_is_not_known(tmp_path: Path, mounts: Path) -> None:
    mounts.write_text(line(tmp_path, "nfs", "host:/x", minor=1))

    assert file_system(tmp_path) == ("", "")
    refuse_unsuitable(tmp_path)


def test_an_absent_path_or_list_is_unknown(tmp_path: Path, mounts: Path) -> None:
    assert file_system(tmp_path) == ("", "")
    mounts.write_text(line(tmp_path, "nfs", "host:/x"))
    assert file_system(tmp_path / "none") == ("", "")


@pytest.mark.parametrize("kind", REMOTE)
def test_a_network_file_system_is_refused(tmp_path: Path, mounts: Path, kind: str) -> None:
    mounts.write_text(line(tmp_path, kind, "host:/x"))

    with pytest.raises(UsageError, match=f"network file system .{kind}."):
        refuse_unsuitable(tmp_path)


@pytest.mark.parametrize("kind", ["fuse", "fuse.cbtfs"])
def test_a_mount_of_cbtfs_is_refused(tmp_path: Path, mounts: Path, kind: str) -> None:
    mounts.write_text(line(tmp_path, kind, "cbtfs"))

    with pytest.raises(UsageError, match="inside a mount of cbtfs"):
        refuse_unsuitable(tmp_path)


@pytest.mark.parametrize(
    ("kind", "source"), [("ext4", "cbtfs"), ("tmpfs", "x"), ("fuse.ext4", "/x"), ("fuseblk", "/y")]
)
def test_local_file_systems_are_fine(tmp_path: Path, mounts: Path, kind: str, source: str) -> None:
    mounts.write_text(line(tmp_path, kind, source))

    refuse_unsuitable(tmp_path)
