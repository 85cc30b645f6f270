"""A Debian root file system on a disk, installed from the configured mirror and then modified."""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError
from tools.bench.programs import run

DISK_BYTES: Final = 2 << 30
_MKFS: Final = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", "-L", "root")
_PROXIES: Final = ("Acquire::http::Proxy", "Acquire::https::Proxy")
_APT: Final = ("apt-get", "-q", "-y", "--no-install-recommends")
_LOG_LINE: Final = "{0:010d} worker[{1}]: request {2:08x} took {3} ms, {4} bytes, status {5}\n"
_STATUSES: Final = (200, 200, 200, 304, 404, 500)


@dataclass(frozen=True, slots=True)
class Mirror:
    """Debian mirror in the apt configuration of this machine."""

    uri: str
    release: str
    lines: Sequence[str]
    """Lines of a sources.list."""
    proxies: Sequence[str]
    """Proxy options of apt."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that give the proxies to programs other than apt."""
        pairs = (proxy.split("=", 1) for proxy in self.proxies)
        return {f"{name.split('::')[1]}_proxy": value for name, value in pairs}


def find_mirror() -> Mirror:
    """Return the mirror in the apt configuration.

    Raises CbtfsError if debootstrap is missing or apt knows no mirror of Debian.
    """
    if shutil.which("debootstrap") is None:
        raise CbtfsError("debootstrap is not installed: run tools/bench/setup")
    shown = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    output = run(["apt-get", "indextargets", "--format", shown, "Created-By: Packages"]).output
    targets = dict.fromkeys(line.split() and tuple(line.split()) for line in output.splitlines())
    debian = [target[1:] for target in targets if len(target) == 4 and target[0] == "Debian"]
    plain = [(uri, release) for uri, release, part in debian if "-" not in release]
    if not plain:
        raise CbtfsError("apt has no mirror of Debian or no package lists: run apt-get update")
    uri, release = plain[0]
    lines = [f"deb {at} {suite} {part}" for at, suite, part in debian if part == "main"]
    proxies = []
    for name in _PROXIES:
        value = run(["apt-config", "shell", "found", name]).output.strip()
        if value:
            proxies.append(f"{name}={value.removeprefix('found=').strip(chr(39))}")
    return Mirror(uri, release, lines, proxies)


@contextmanager
def mounted_root(image: Path, at: Path) -> Iterator[Path]:
    """Mount the file system of *image* read-write at *at*; unmounting writes all data back."""
    at.mkdir(exist_ok=True)
    run(["mount", "-o", "loop,nodiscard", image, at])
    try:
        yield at
    finally:
        run(["umount", at])
        at.rmdir()


class DebianSystem:
    """A mounted root file system, and the modifications between two restore points."""

    def __init__(self, root: Path, mirror: Mirror, seed: int) -> None:
        self._root = root
        self._mirror = mirror
        self._random = random.Random(seed)

    def install(self) -> None:
        """Install the original release with debootstrap."""
        options = ["--variant=minbase", f"--cache-dir={self._fetched}"]
        self._fetched.mkdir(exist_ok=True)
        where: list[str | Path] = [self._mirror.release, self._root, self._mirror.uri]
        run(["debootstrap", *options, *where], self._mirror.environment)
        (self._root / "etc/apt/sources.list").write_text("\n".join(self._mirror.lines) + "\n")
        policy = self._root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")  # packages must not start services
        policy.chmod(0o755)

    @property
    def _fetched(self) -> Path:
        return self._root.with_name("fetched")

    def upgrade(self) -> None:
        self._apt("update")
        self._apt("upgrade")

    def add(self, *packages: str) -> None:
        self._apt("install", *packages)

    def purge(self, *packages: str) -> None:
        self._apt("purge", "--auto-remove", *packages)

    def clean(self) -> None:
        self._apt("clean")

    def _apt(self, *arguments: str) -> None:
        """Run apt-get in the root file system."""
        options = [word for proxy in self._mirror.proxies for word in ("-o", proxy)]
        with ExitStack() as stack:
            for kind in ("proc", "sysfs"):
                at = self._root / {"proc": "proc", "sysfs": "sys"}[kind]
                run(["mount", "-t", kind, kind, at])
                stack.callback(run, ["umount", at])
            for name in ("resolv.conf", "hosts"):
                (self._root / "etc" / name).write_bytes(Path("/etc", name).read_bytes())
            environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
            run(["chroot", self._root, *_APT, *options, *arguments], environment)

    def log(self, lines: int, name: str = "app.log") -> None:
        """Append lines to a log file."""
        dice = self._random
        with (self._root / "var/log" / name).open("a") as file:
            for _ in range(lines):
                facts = dice.randrange(64), dice.getrandbits(32), dice.randrange(900)
                size, status = dice.randrange(1 << 20), dice.choice(_STATUSES)
                file.write(_LOG_LINE.format(dice.randrange(1 << 31), *facts, size, status))

    def rotate(self, name: str = "app.log") -> None:
        """Compress a log file; the next line starts a new one."""
        run(["gzip", "-9f", self._root / "var/log" / name])

    def edit(self, share: float) -> None:
        """Append a line to a share of the files in /etc, as an administrator does."""
        for path in self._some(self._root / "etc", share):
            text = path.read_text(errors="surrogateescape")
            path.write_text(f"{text}# {self._random.getrandbits(64):x}\n", errors="surrogateescape")

    def delete(self, below: str, share: float) -> None:
        for path in self._some(self._root / below, share):
            path.unlink()

    def write(self, below: str, count: int, largest: int) -> None:
        """Write *count* user files, half of them text."""
        folder = self._root / below
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            data = self._random.randbytes(self._random.randrange(largest))
            name = f"{self._random.getrandbits(48):012x}"
            (folder / name).write_bytes(
                data if self._random.random() < 0.5 else data.hex().encode()
            )

    def trim(self) -> None:
        """Discard unused blocks of the file system; they read as zeros afterwards."""
        run(["fstrim", self._root])

    def _some(self, folder: Path, share: float) -> list[Path]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [path for path in files if not path.is_symlink()]
        return self._random.sample(files, int(len(files) * share))


def _first_days(system: DebianSystem) -> None:
    system.edit(0.05)
    system.log(200_000)


def _growth(system: DebianSystem) -> None:
    system.write("home/user", 400, 1 << 17)
    system.log(400_000)


def _cleaning(system: DebianSystem) -> None:
    system.clean()
    system.delete("usr/share/doc", 0.5)
    system.rotate()


def _second_growth(system: DebianSystem) -> None:
    system.delete("home/user", 0.3)
    system.write("home/user", 200, 1 << 18)
    system.log(300_000)


def _removal(system: DebianSystem) -> None:
    system.purge("gcc", "libc6-dev")
    system.clean()


def _last_days(system: DebianSystem) -> None:
    system.trim()
    system.log(100_000)
    system.edit(0.02)


STEPS: Final[Sequence[Callable[[DebianSystem], None]]] = (
    DebianSystem.install,
    DebianSystem.upgrade,
    lambda system: system.add("python3-minimal", "perl", "less", "ca-certificates"),
    _first_days,
    lambda system: system.add("gcc", "libc6-dev", "git"),
    _growth,
    _cleaning,
    _second_growth,
    _removal,
    _last_days,
)
"""Modifications before each of the ten points."""


def make_disk(image: Path) -> None:
    """Create an image with an empty ext4 file system."""
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run([*_MKFS, image])
    os.sync()
