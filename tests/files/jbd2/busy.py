"""Images of ext3 and ext4 file systems that were copied while a program wrote to them."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.volumes.images import loop_device

MIB: Final = 1 << 20
MAGIC: Final = bytes.fromhex("c03b3998")
"""Blocks that begin with it are escaped in the log."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Options of mke2fs and mount."""

    make: str
    mount: str = "commit=600"
    mib: int = 20


SHAPES: Final = {
    "4k-64bit-v3": Shape("-t ext4 -b 4096 -J size=4 -O 64bit,metadata_csum"),
    "1k-block-map": Shape("-t ext3 -b 1024 -J size=1", mib=12),
    "2k-32bit-v3": Shape("-t ext4 -b 2048 -J size=2 -O ^64bit,metadata_csum", mib=16),
    "1k-v1": Shape(
        "-t ext4 -b 1024 -J size=1 -O ^metadata_csum", "commit=600,journal_checksum", mib=12
    ),
    "4k-data-journal": Shape(
        "-t ext4 -b 4096 -J size=4 -O metadata_csum,64bit", "commit=600,data=journal"
    ),
    "1k-data-journal": Shape(
        "-t ext4 -b 1024 -J size=1 -O ^metadata_csum,^64bit", "commit=600,data=journal", mib=12
    ),
    "4k-async": Shape(
        "-t ext4 -b 4096 -J size=4 -O metadata_csum", "data=writeback,journal_async_commit"
    ),
    "2k-ext3-data-journal": Shape("-t ext3 -b 2048 -J size=2", "data=journal", mib=16),
    "4k-inline-data": Shape(
        "-t ext4 -b 4096 -J size=4 -I 512 -O inline_data,metadata_csum_seed,metadata_csum"
    ),
    "1k-bigalloc": Shape("-t ext4 -b 1024 -J size=1 -O bigalloc -C 16384", mib=12),
}


def run(*command: object) -> str:
    """Run a command; return its output."""
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def mounted(shape: Shape, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield an image and the directory where its new file system is mounted."""
    image, root = folder / "image", folder / "root"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(shape.mib * MIB)
    run("mke2fs", "-q", "-F", *shape.make.split(), image)
    root.mkdir(exist_ok=True)
    with loop_device(image) as device:
        run("mount", "-o", shape.mount, device, root)
        try:
            yield image, root
        finally:
            run("umount", root)


def copied(image: Path, target: Path) -> Path:
    """Copy an image as it is at this moment; return the copy."""
    run("cp", "--sparse=always", image, target)
    return target


class Writer:
    """A program that changes a file system and flushes some of the changes."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._random = random.Random(seed)
        self._folders = [root]
        self._files: list[Path] = []
        self._count = 0

    def work(self, steps: int) -> None:
        """Make random changes."""
        actions = [self._write, self._write, self._write, self._fragmented, self._unlink]
        actions += [self._rename, self._truncate, self._make_folder, self._remove_folder]
        for _ in range(steps):
            self._random.choice(actions)()

    def _name(self) -> str:
        self._count += 1
        return f"{self._count}-" + "n" * self._random.randrange(1, 200)

    def _content(self, length: int) -> bytes:
        if self._random.random() < 0.5:
            return (MAGIC + b"content!" * 127 + b"1234") * (length // 1024 + 1)
        return self._random.randbytes(length)

    def _write(self) -> None:
        if len(self._files) > 60:
            return self._unlink()
        path = self._random.choice(self._folders) / self._name()
        with path.open("wb") as file:
            file.write(self._content(self._random.randrange(1, 40000)))
            self._flush(file.fileno())
        self._files.append(path)
        return None

    def _fragmented(self) -> None:
        """Write a file with holes, whose map needs blocks of its own."""
        path = self._random.choice(self._folders) / self._name()
        with path.open("wb") as file:
            for number in range(self._random.randrange(5, 40)):
                file.seek(number * 3 * 4096 * self._random.choice((1, 40)))
                file.write(MAGIC)
            self._flush(file.fileno())
        self._files.append(path)

    def _unlink(self) -> None:
        if self._files:
            path = self._files.pop(self._random.randrange(len(self._files)))
            path.unlink()
            self._flush_folder(path.parent)

    def _rename(self) -> None:
        if self._files:
            at = self._random.randrange(len(self._files))
            path = self._random.choice(self._folders) / self._name()
            self._files[at].rename(path)
            self._files[at] = path
            self._flush_folder(path.parent)

    def _truncate(self) -> None:
        if self._files:
            os.truncate(self._random.choice(self._files), self._random.randrange(3000))

    def _make_folder(self) -> None:
        if len(self._folders) < 12:
            path = self._random.choice(self._folders) / self._name()
            path.mkdir()
            self._folders.append(path)
            for number in range(self._random.choice((0, 40))):
                (path / f"link-{number}-{'l' * 150}").symlink_to("t" * (number + 1))
            self._flush_folder(path)

    def _remove_folder(self) -> None:
        if len(self._folders) < 3:
            return
        folder = self._folders[self._random.randrange(1, len(self._folders))]
        shutil.rmtree(folder)
        self._folders = [path for path in self._folders if not path.is_relative_to(folder)]
        self._files = [path for path in self._files if not path.is_relative_to(folder)]
        self._flush_folder(folder.parent)

    def _flush(self, fd: int) -> None:
        if self._random.random() < 0.5:
            os.fsync(fd)

    def _flush_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._flush(fd)
        os.close(fd)
