"""Mounts by users other than root, with fusermount3, in a private mount namespace.

Program and interpreter are bind-mounted to a directory that the user can read.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.mounts

ROOT: Final = Path(__file__).parent.parent.parent
USER: Final = 65534  # nobody, on every Debian

_PREPARE: Final = """\
set -e
mount --make-rprivate /
mount --bind {source} src
mount --bind {packages} packages
mount --bind {base} base
mknod fuse c 10 229
chmod {mode} fuse
mount --bind fuse /dev/fuse
mount --bind fuse.conf /etc/fuse.conf
{reveal}
exec setpriv --reuid={user} --regid={user} --clear-groups bash -c "$SCRIPT"
"""


def _reveal(base: Path) -> str:
    """Return commands that let the user reach the libraries of an interpreter in root's home."""
    for path in reversed(base.parents):
        if not path.stat().st_mode & 0o001:
            return f"mount -t tmpfs none {path}\nmkdir -p {base}\nmount --bind base {base}"
    return ""


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a directory that the user owns and can reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for name in ("src", "packages", "base", "mnt", "user"):
            (folder / name).mkdir()
        (folder / "fuse.conf").touch()
        for path in (folder, folder / "mnt", folder / "user"):
            os.chown(path, USER, USER)
        yield folder


def run(home: Path, script: str, mode: str = "666") -> "subprocess.CompletedProcess[str]":
    """Run *script* as the user, in a mount namespace whose /dev/fuse has *mode*."""
    packages = sysconfig.get_path("purelib")
    prepare = _PREPARE.format(
        source=ROOT,
        packages=packages,
        base=sys.base_prefix,
        mode=mode,
        reveal=_reveal(Path(sys.base_prefix)),
        user=USER,
    )
    python = f"{home}/base/bin/python3.{sys.version_info.minor}"
    program = (
        f"import sys; sys.path[:0] = ['{home}/src', '{home}/packages']; "
        "from cbtfs.cli.start import run; run()"
    )
    before = f"""\
set -e
cbtfs() {{ {python} -c "{program}" "$@"; }}
head -c 300000 /dev/urandom > user/disk.raw
cbtfs init
cbtfs ingest image --vm vm --disk root user/disk.raw >/dev/null
"""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home / "user"),
        "CBTFS_REPO": str(home / "user" / "repository"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_LIBRARY_PATH": f"{home}/base/lib",
        "SCRIPT": before + script,
    }
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", prepare],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("umount", ["cbtfs umount mnt", "fusermount3 -u mnt"])
def test_a_user_mounts_reads_and_unmounts(home: Path, umount: str) -> None:
    done = run(
        home,
        f"""
        cbtfs mount mnt
        cmp user/disk.raw mnt/vm/latest/root.raw
        stat --format '%u %A' mnt/vm/latest/root.raw
        findmnt --noheadings --output FSTYPE,OPTIONS mnt
        {umount}
        ls mnt
        """,
    )

    assert done.returncode == 0, done.stderr
    line, status, mount, *rest = done.stdout.splitlines()[1:]
    assert f"is mounted on {home}/mnt: 1 restore point of 1 VM" in line
    assert status == f"{USER} -r--------"
    for option in ("fuse", "ro", "nosuid", "nodev", "noexec", "default_permissions"):
        assert option in mount
    assert rest == []


def test_umount_of_a_users_busy_mount_fails_and_names_the_holder(home: Path) -> None:
    done = run(
        home,
        """
        cbtfs mount mnt
        exec 5< mnt/vm/latest/root.raw
        cbtfs umount mnt || echo code $?
        exec 5<&-
        cbtfs umount mnt
        """,
    )

    assert done.returncode == 0, done.stderr
    assert "code 40" in done.stdout
    assert "is busy: it is held by process" in done.stderr


def test_a_mount_without_permission_on_the_device_fails_with_a_remedy(home: Path) -> None:
    done = run(home, "cbtfs mount mnt", mode="600")

    assert done.returncode == 40
    assert done.stderr.splitlines() == [
        "cbtfs: cannot mount: no permission to open /dev/fuse; run 'chmod 666 /dev/fuse' as root, "
        "the mode that udev sets on most systems, or mount as root"
    ]


def test_allow_other_requires_a_line_in_fuse_conf(home: Path) -> None:
    done = run(home, "cbtfs mount --allow-other mnt")

    assert done.returncode == 40
    assert "add the line user_allow_other to /etc/fuse.conf" in done.stderr


def test_allow_other_works_with_the_line_in_fuse_conf(home: Path) -> None:
    (home / "fuse.conf").write_text("# comment\nuser_allow_other\n")
    done = run(home, "cbtfs mount --allow-other mnt\nfindmnt -no OPTIONS mnt\ncbtfs umount mnt")

    assert done.returncode == 0, done.stderr
    assert "allow_other" in done.stdout.splitlines()[-1]


def test_a_mount_of_root_is_closed_to_others_and_its_files_remain_so_with_allow_other(
    home: Path,
) -> None:
    script = f"""
set -e
mount --make-rprivate /
cd {home}
chmod 755 .
export CBTFS_REPO={home}/repository PYTHONPATH={ROOT}
cbtfs() {{ {sys.executable} -m cbtfs "$@"; }}
user() {{ setpriv --reuid={USER} --regid={USER} --clear-groups "$@"; }}
echo content > disk.raw
truncate -s 8192 disk.raw
cbtfs init
cbtfs ingest image --vm vm --disk root disk.raw >/dev/null
cbtfs -q mount mnt
user ls mnt || echo denied
cbtfs umount mnt
cbtfs mount -q --allow-other mnt
user ls mnt || echo denied
user cat mnt/vm/latest/root.raw || echo denied
cmp disk.raw mnt/vm/latest/root.raw
cbtfs umount mnt
"""
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["denied"] * 3


def test_a_user_reads_files_of_a_guest(home: Path) -> None:
    content = home / "content" / "etc"
    content.mkdir(parents=True)
    (content / "hosts").write_text("127.0.0.1 guest\n")
    (content / "hosts").chmod(0o600)
    image = home / "user" / "guest.raw"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", home / "content", image, "2M"], check=True)
    image.chmod(0o644)

    done = run(
        home,
        """
        cbtfs ingest image --vm web --disk root user/guest.raw >/dev/null
        cbtfs mount mnt
        cat mnt/web/latest/files/etc/hosts
        cp -a mnt/web/latest/files/etc user/restored
        grep --recursive --no-filename guest user/restored
        stat --format '%u %A' mnt/web/latest/files/etc/hosts
        cbtfs umount mnt
        """,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [*["127.0.0.1 guest"] * 2, f"{USER} -r--------"]


if "CBTFS_APPLIANCE" in os.environ:

    @pytest.mark.limit(1800)
    def test_a_user_reads_files_of_a_guest_by_an_appliance(home: Path) -> None:
        """An XFS, whose engine is chosen by auto; the kernel of the appliance is in /boot."""
        (home / "prototype").write_text("none\n0 0\nd--755 0 0\nhello ---644 0 0 user/hello\n$\n")
        script = """\
echo hello > user/hello
truncate -s 300M user/guest.raw
mkfs.xfs -q -p prototype user/guest.raw
cbtfs ingest image --vm guest --disk root user/guest.raw >/dev/null
cbtfs files cat guest:/hello
cbtfs files extract guest:/hello user/copy
stat -c '%U %s' user/copy
cbtfs files cat guest:/hello --engine parse || echo code $?
"""
        done = run(home, script)

        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1:] == ["hello", "nobody 6", "code 12"]
        assert "volume root: xfs, engine appliance" in done.stderr
