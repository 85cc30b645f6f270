"""A guest's disk: GPT, ext4 and XFS, real files, and a guest that works on them."""

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
"""What the change tracker of the demo tells apart, as that of a hypervisor does."""
_COMPARED_BYTES: Final = 4 * MIB


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: its place on the disk in bytes, its file system, and how to mount that."""

    number: int
    start: int
    length: int
    kind: str
    writing: str
    reading: str


# mkfs.xfs refuses less than 300 MiB.
PARTITIONS: Final = (
    Partition(1, 1 * MIB, 256 * MIB, "ext4", "rw", "ro,noload"),
    Partition(2, 257 * MIB, 380 * MIB, "xfs", "rw,nouuid", "ro,norecovery,nouuid"),
)

Tree = dict[str, tuple[object, ...]]
"""By path: type and mode, owner, size, time, and what a file or link holds."""


class Guest:
    """A disk image that a guest works on between snapshots; a fixed seed makes what it writes."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "guest.raw"
        self._mount_point = folder / "guest"
        self._random = random.Random(2026)

    def install(self) -> None:
        """Partition the disk, make the file systems, copy files of this machine into them."""
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
        place = ["--offset", str(partition.start), "--sizelimit", str(partition.length)]
        device = run("losetup", "--find", "--show", *place, self.image).strip()
        try:
            flags = ["-q", "-F"] if partition.kind == "ext4" else ["-q", "-f"]
            run(f"mkfs.{partition.kind}", *flags, device)
        finally:
            run("losetup", "--detach", device)

    def work(self, day: int) -> None:
        """What a guest does in a day: add, change, delete, overwrite in place, trim."""
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
            with mounted(self.image, partition, self._mount_point, partition.writing) as root:
                yield root


@contextmanager
def mounted(image: Path, partition: Partition, at: Path, options: str) -> Iterator[Path]:
    """One partition's file system, mounted at *at*."""
    place = (image, partition.start, partition.length)
    with loop_mounted(*place, at, partition.kind, options) as root:
        yield root


def trees(image: Path, at: Path) -> list[Tree]:
    """What the file systems of *image* hold, mounted read-only, one after the other, at *at*."""
    found = []
    for partition in PARTITIONS:
        with mounted(image, partition, at, partition.reading) as root:
            found.append({str(path.relative_to(root)): _facts(path) for path in root.rglob("*")})
    return found


def _facts(path: Path) -> tuple[object, ...]:
    facts = path.lstat()
    common = (facts.st_mode, facts.st_uid, facts.st_gid)
    if stat.S_ISLNK(facts.st_mode):
        return (*common, os.readlink(path))
    if stat.S_ISREG(facts.st_mode):
        return (*common, facts.st_size, facts.st_mtime_ns, sha256(path))
    return common


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changes(before: Path, after: Path) -> list[dict[str, int]]:
    """What a change tracker would say: areas of 64 KiB in which two images differ."""
    found: list[dict[str, int]] = []
    with before.open("rb") as old, after.open("rb") as new:
        for start in range(0, _DISK_BYTES, _COMPARED_BYTES):
            left, right = old.read(_COMPARED_BYTES), new.read(_COMPARED_BYTES)
            if left == right:
                continue
            for at in range(0, len(right), _TRACKED_BYTES):
                area = slice(at, at + _TRACKED_BYTES)
                if left[area] != right[area]:
                    found.append({"start": start + at, "length": _TRACKED_BYTES})
    return found
