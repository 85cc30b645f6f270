"""The disk of a guest: GPT, ext4 and XFS with real files, and the guest's daily changes."""

import hashlib
import os
import random
import shutil
import stat
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.demo.commands import loop_mounted, run

MIB: Final = 1 << 20
_DISK_BYTES: Final = 640 * MIB
_TRACKED_BYTES: Final = 64 << 10
"""Granularity of the demo's change tracking; hypervisors use similar values."""
_COMPARED_BYTES: Final = 4 * MIB


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: its range on the disk in bytes, its file system and its mount options."""

    number: int
    start: int
    length: int
    file_system: str
    write_options: str
    read_options: str


# mkfs.xfs refuses less than 300 MiB. The guest is unmounted at each snapshot, so its journals are
# empty: plain `ro` is enough. It fails on a journal that needs a replay, because the loop device is
# read-only; noload and norecovery would ignore that journal and compare outdated files.
PARTITIONS: Final = (
    Partition(1, 1 * MIB, 256 * MIB, "ext4", "rw", "ro"),
    Partition(2, 257 * MIB, 380 * MIB, "xfs", "rw,nouuid", "ro,nouuid"),
)

FileTree = dict[str, tuple[object, ...]]
"""Attributes by path: mode, owner, then size, time and hash of a file, or target of a link."""


class Guest:
    """A disk image that changes between snapshots. A fixed seed determines the written data."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "guest.raw"
        self._mount_point = folder / "guest"
        self._random = random.Random(2026)

    def install(self) -> None:
        """Partition the disk, create the file systems and copy files of this machine."""
        with self.image.open("xb") as file:
            file.truncate(_DISK_BYTES)
        layout = [
            f"--new={p.number}:{p.start // 512}:{(p.start + p.length) // 512 - 1}"
            for p in PARTITIONS
        ]
        run("sgdisk", "--set-alignment=1", *layout, self.image)
        for partition in PARTITIONS:
            self._make_file_system(partition)
        standard_library = Path(sysconfig.get_path("stdlib"))
        for root in self._mounted():
            for package in ("json", "email", "asyncio", "encodings", "unittest", "xml"):
                shutil.copytree(standard_library / package, root / "lib" / package)
            (root / "data").mkdir()
            self._write(root / "data" / "database", 24 * MIB)
            self._write(root / "data" / "scratch", 12 * MIB)
            (root / "link").symlink_to("lib/json")

    def _make_file_system(self, partition: Partition) -> None:
        part = ["--offset", str(partition.start), "--sizelimit", str(partition.length)]
        device = run("losetup", "--find", "--show", *part, self.image).strip()
        try:
            flags = ["-q", "-F"] if partition.file_system == "ext4" else ["-q", "-f"]
            run(f"mkfs.{partition.file_system}", *flags, device)
        finally:
            run("losetup", "--detach", device)

    def work(self, day: int) -> None:
        """Make the changes of one day: add, modify, delete and overwrite files, then trim."""
        for root in self._mounted():
            self._write(root / "data" / f"day-{day}", 3 * MIB)
            for path in sorted((root / "lib").rglob("*.py"))[day::17]:
                path.write_text(path.read_text() + f"\n# changed on day {day}\n")
            for path in sorted((root / "lib").rglob("*.py"))[day::29]:
                path.unlink()
            with (root / "data" / "database").open("r+b") as file:
                for _ in range(40):
                    file.seek(self._random.randrange(24 * MIB - 8192))
                    file.write(self._random.randbytes(8192))
            if day == 2:
                (root / "data" / "scratch").unlink()
            run("fstrim", root)

    def _write(self, path: Path, size: int) -> None:
        path.write_bytes(self._random.randbytes(size // 2) + b"text that compresses well\n" * 1000)

    def _mounted(self) -> Iterator[Path]:
        for partition in PARTITIONS:
            with mounted(self.image, partition, self._mount_point, partition.write_options) as root:
                yield root


@contextmanager
def mounted(image: Path, partition: Partition, at: Path, options: str) -> Iterator[Path]:
    """Mount the file system of one partition at *at*."""
    part = (image, partition.start, partition.length)
    with loop_mounted(*part, at, partition.file_system, options) as root:
        yield root


def file_trees(image: Path, at: Path) -> list[FileTree]:
    """Return the files of each partition of *image*, mounted read-only at *at* in turn."""
    trees = []
    for partition in PARTITIONS:
        with mounted(image, partition, at, partition.read_options) as root:
            trees.append(
                {str(path.relative_to(root)): _attributes(path) for path in root.rglob("*")}
            )
    return trees


def _attributes(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    common = (status.st_mode, status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (*common, os.readlink(path))
    if stat.S_ISREG(status.st_mode):
        return (*common, status.st_size, status.st_mtime_ns, sha256(path))
    return common


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_areas(before: Path, after: Path) -> list[dict[str, int]]:
    """Return the areas of 64 KiB in which two images differ, like a change tracker."""
    areas: list[dict[str, int]] = []
    with before.open("rb") as old, after.open("rb") as new:
        for start in range(0, _DISK_BYTES, _COMPARED_BYTES):
            left, right = old.read(_COMPARED_BYTES), new.read(_COMPARED_BYTES)
            if left == right:
                continue
            for offset in range(0, len(right), _TRACKED_BYTES):
                area = slice(offset, offset + _TRACKED_BYTES)
                if left[area] != right[area]:
                    areas.append({"start": start + offset, "length": _TRACKED_BYTES})
    return areas
