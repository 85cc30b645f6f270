"""The Debian package is installed, works with its own environment, and is removed without rest.

In CI the libraries come from the environment of the tests. `CBTFS_PACKAGE=full` lets pip install
them from the index, as `tools/package` does without arguments; it takes minutes.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cbtfs import __version__
from tools.deb import build, libraries

pytestmark = pytest.mark.mounts

ROOT = Path(__file__).parents[1]
IS_FULL = os.environ.get("CBTFS_PACKAGE") == "full"
SITE = Path(sysconfig.get_path("purelib"))

_CHROOT = """\
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount --rbind /proc "$1/root/proc"
mount -t tmpfs tmpfs "$1/root/srv"
cp "$2" "$1/root/srv/cbtfs.deb"
cat > "$1/root/srv/script"
chroot "$1/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv sh -e /srv/script
cd "$1/upper"
find . -path ./var -prune -o -path ./root -prune -o -print | while read -r path; do
    [ -d "$path" ] && [ -d "/$path" ] || echo "left: $path"
done
echo removed
"""
"""Runs a script in a copy of this machine that exists in memory only."""
_SCRIPT = """\
dpkg --force-unsafe-io -i /srv/cbtfs.deb > /srv/log
cd /srv
cbtfs --version
export CBTFS_REPO=/srv/repository
head -c 1000000 /dev/urandom > disk.raw
cbtfs init > /dev/null
cbtfs ingest image --vm web01 --disk root --time 2026-01-01T00:00:00Z disk.raw > /dev/null
cbtfs restore web01@latest root back.raw > /dev/null
cmp disk.raw back.raw
mkdir point
mount -t cbtfs /srv/repository /srv/point
cmp disk.raw point/web01/latest/root.raw
cbtfs umount point > /dev/null
/usr/lib/cbtfs/bin/python -c '
import cbtfs
print(*cbtfs.open_repository("repository").points("web01"))'
man --where cbtfs-restore
bash -c '. /usr/share/bash-completion/completions/cbtfs; complete -p cbtfs'
ls /usr/lib/systemd/system | grep ^cbtfs
dpkg --verify cbtfs
dpkg --remove cbtfs >> /srv/log
dpkg --purge cbtfs >> /srv/log
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    if IS_FULL:
        return build(folder)
    command = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, *command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return build(folder, wheel, SITE)


@pytest.mark.limit(1800 if IS_FULL else 300)
def test_the_package_works_and_is_removed_without_rest(package: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", _CHROOT, "sh", str(tmp_path), str(package)],
        input=_SCRIPT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"cbtfs {__version__}",
        "web01@2026-01-01T00-00-00Z",
        "/usr/share/man/man1/cbtfs-restore.1.gz",
        "complete -o default -F _cbtfs_completion cbtfs",
        "cbtfs-export@.service",
        "cbtfs-mount@.service",
        "cbtfs-run@.service",
        "cbtfs-run@.timer",
        "removed",
    ]


def test_the_package_depends_on_the_python_and_the_libraries_of_the_system(package: Path) -> None:
    shown = subprocess.run(
        ["dpkg-deb", "--field", package, "Depends"], capture_output=True, text=True, check=True
    ).stdout

    names = {dependency.split()[0] for dependency in shown.split(",")}
    assert {"python3", "fuse3", "libfuse3-3", "libdeflate0", "libzstd1"} <= names


def test_the_package_has_all_libraries_and_no_path_of_the_build(
    package: Path, tmp_path: Path
) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    (site,) = tmp_path.glob("usr/lib/cbtfs/lib/python*/site-packages")

    copied = {path.name.partition("-")[0].lower() for path in site.glob("*.dist-info")}
    assert {name.replace("-", "_") for name in libraries(SITE)} <= copied
    texts = [*tmp_path.glob("usr/lib/cbtfs/bin/*"), tmp_path / "usr/lib/cbtfs/pyvenv.cfg"]
    for path in texts:
        if not path.is_symlink():
            assert b"/tmp" not in path.read_bytes()
    compiled = next(site.glob("cbtfs/__pycache__/errors.*.pyc")).read_bytes()
    assert b"/usr/lib/cbtfs/lib/" in compiled


def test_units_are_valid(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cbtfs")
    units = []
    for unit in sorted((ROOT / "contrib" / "systemd").iterdir()):
        units.append(tmp_path / unit.name.replace("@", "@nightly"))
        text = unit.read_text("utf-8").replace("ExecStart=cbtfs", f"ExecStart={program}")
        (tmp_path / unit.name).write_text(text.replace("=-cbtfs", f"=-{program}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
