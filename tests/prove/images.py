"""Disks with file systems for proofs, each with one property."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.guest import boot_code, screen_code
from tests.volumes.images import loop_device

MIB: Final = 1 << 20
EXT_MIB: Final = 16
"""Large enough for a backup of the superblock and for a journal."""


def run(*command: str | Path, text: str | None = None) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, input=text)


def make_ext4(path: Path) -> Path:
    """Make an ext4 with blocks of 1 KiB and a few files."""
    with path.open("wb") as file:
        file.truncate(EXT_MIB * MIB)
    with tempfile.TemporaryDirectory() as name:
        for number in range(20):
            Path(name, f"file{number}").write_text(f"content {number}\n" * 100)
        run("mkfs.ext4", "-q", "-b", "1024", "-d", name, path)
    return path


def make_dirty_ext4(path: Path) -> Path:
    """Make an ext4 whose journal has a committed transaction that is not in place yet."""
    make_ext4(path)
    with tempfile.TemporaryDirectory() as name:
        block = Path(name, "block")
        block.write_bytes(b"from the journal".ljust(1024))
        script = Path(name, "script")
        script.write_text(f"jo\njw -b 9000 {block}\njc\n")
        run("debugfs", "-w", "-f", script, path)
    return path


def make_broken_ext4(path: Path) -> Path:
    """Make an ext4 whose root directory has lost its inode."""
    make_ext4(path)
    run("debugfs", "-w", "-R", "clri <2>", path)
    return path


def without_superblock(path: Path) -> Path:
    """Make an ext4 whose primary superblock is zeros."""
    make_ext4(path)
    return overwrite(path, 1024, bytes(1024))


def make_fat(path: Path, *, is_dirty: bool = False) -> Path:
    with path.open("wb") as file:
        file.truncate(4 * MIB)
    run("mkfs.vfat", "-F", "16", "-s", "1", path)
    return overwrite(path, 0x25, b"\1") if is_dirty else path


def make_dirty_xfs(path: Path) -> Path:
    """Make an XFS whose log has changes that are not in place: files with other names."""
    with path.open("wb") as file:
        file.truncate(304 * MIB)
    run("mkfs.xfs", "-q", path)
    with tempfile.TemporaryDirectory() as name, loop_device(path) as device:
        run("mount", device, name)
        try:
            for number in range(100):
                Path(name, f"file{number}").write_text(f"content {number}\n")
            run("sync", "-f", name)
            for number in range(100):
                Path(name, f"file{number}").rename(Path(name, f"renamed{number}"))
            run("xfs_io", "-x", "-c", "shutdown -f", name)
        finally:
            run("umount", name)
    return path


def with_damaged_gpt(path: Path) -> Path:
    """Make a disk with one partition, an ext4, and a damaged primary GPT."""
    with path.open("wb") as file:
        file.truncate((EXT_MIB + 2) * MIB)
    run("sfdisk", "--quiet", path, text=f"label: gpt\nstart=2048, size={EXT_MIB * 2048}\n")
    part = make_ext4(path.with_suffix(".part"))
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(part.read_bytes())
    part.unlink()
    return overwrite(path, 512 + 56, b"\xff" * 4)


def make_bootable(
    path: Path,
    text: str | None,
    make: Callable[[Path], Path] = make_ext4,
    *,
    on_screen: bool = False,
) -> Path:
    """Make a disk with a partition that passes level 3.

    Its boot sector writes *text* to the serial port or to the screen, and halts; without a text it
    ends at once.
    """
    with path.open("wb") as file:
        file.truncate((EXT_MIB + 2) * MIB)
    run("sfdisk", "--quiet", path, text=f"label: dos\nstart=2048, size={EXT_MIB * 2048}\n")
    part = make(path.with_suffix(".part"))
    overwrite(path, MIB, part.read_bytes())
    part.unlink()
    if text is None:
        code = b"\xcd\x18"  # int 0x18: the boot has failed
    else:
        code = screen_code(text) if on_screen else boot_code(text, stays=True)
    assert len(code) <= 440
    return overwrite(path, 0, code)


def overwrite(path: Path, offset: int, data: bytes) -> Path:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)
    return path
