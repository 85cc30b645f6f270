"""The parser of FAT shows the files that mtools have written."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.parsing import open_file_system
from cbtfs.files.protocol import (
    EngineFailed,
    FileSystem,
    FileSystemDamaged,
    GuestFileMissing,
    Kind,
)
from cbtfs.files.volumes import Volume
from tests.files.guest_trees import ImageSource

SIZES: Final = {12: 2, 16: 32, 32: 64}
"""MiB of a file system by the bits of its table."""
FILES: Final = 120
TIME: Final = 1_700_000_000
"""Seconds since 1970, even: FAT has units of two seconds."""


def contents() -> dict[str, bytes]:
    """Return the files to write by their paths."""
    chance = random.Random(1)
    files = {
        "/random.bin": chance.randbytes(300_001),
        "/SHORT.TXT": b"short\n",
        "/a long name, ümläut and 日本語.txt": b"long\n",
        "/" + "n" * 250 + ".txt": b"255",
        "/EFI/BOOT/BOOTX64.EFI": chance.randbytes(20_000),
        "/empty": b"",
    }
    files |= {f"/many/file number {n}": str(n).encode() for n in range(FILES)}
    return files


@pytest.fixture(scope="module", params=SIZES)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fat")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(SIZES[request.param] << 20)
    subprocess.run(["mkfs.vfat", "-F", str(request.param), image], check=True, capture_output=True)
    source = folder / "source"
    for path, data in contents().items():
        original = source / path[1:]
        original.parent.mkdir(parents=True, exist_ok=True)
        original.write_bytes(data)
        os.utime(original, (TIME, TIME))
    (source / "SHORT.TXT").chmod(0o444)
    tops = sorted(source.iterdir())
    mtools(image, "mcopy", "-s", "-m", *tops, "::")
    mtools(image, "mdel", "::/many/file number 7")
    mtools(image, "mattrib", "+r", "::/SHORT.TXT")
    return image


def mtools(image: Path, command: str, *arguments: str | Path) -> None:
    environment = {"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    subprocess.run([command, "-i", image, *arguments], check=True, env=environment)


@pytest.fixture
def file_system(image: Path) -> Iterator[FileSystem]:
    opened = open_file_system(Volume("root", ImageSource(image)))
    yield opened
    opened.close()


def walked(file_system: FileSystem, path: str = "") -> Iterator[str]:
    for entry in file_system.entries(path or "/"):
        if entry.kind is Kind.DIRECTORY:
            yield from walked(file_system, f"{path}/{entry.name}")
        else:
            yield f"{path}/{entry.name}"


def test_files_are_those_that_were_written(image: Path, file_system: FileSystem) -> None:
    expected = contents()
    del expected["/many/file number 7"]
    source = ImageSource(image)

    assert set(walked(file_system)) == set(expected)
    for path, data in expected.items():
        entry = file_system.stat(path)
        assert (entry.size, entry.modified_ns) == (len(data), TIME * 1_000_000_000)
        assert file_system.read(path, 0, 1 << 20) == data
        assert file_system.read(path, 5, 100) == data[5:105]
        by_extents = b"".join(
            source.read(extent.offset or 0, extent.length) for extent in file_system.extents(path)
        )
        assert by_extents == data


def test_a_parser_that_dies_is_replaced_by_the_same(file_system: FileSystem) -> None:
    assert isinstance(file_system, ParsedFileSystem)
    assert file_system._process is not None
    os.kill(file_system._process.pid, signal.SIGKILL)

    with pytest.raises(EngineFailed, match="signal 9"):
        file_system.stat("/SHORT.TXT")
    assert file_system.read("/SHORT.TXT", 0, 100) == b"short\n"


def test_facts_name_engine_and_replay(file_system: FileSystem) -> None:
    assert file_system.engine == "parse"
    assert file_system.kind in ("fat12", "fat16", "fat32")
    assert file_system.notes == ["read without replay"]
    assert file_system.stat("/SHORT.TXT").mode == 0o444
    assert file_system.stat("/random.bin").mode == 0o644


def test_files_have_different_inodes(file_system: FileSystem) -> None:
    inodes = [file_system.stat(path).inode for path in walked(file_system)]

    assert len(set(inodes)) == len(inodes)


@pytest.mark.parametrize("path", ["/nothing", "/empty/file", "/EFI/nothing/x"])
def test_a_missing_path_is_reported(file_system: FileSystem, path: str) -> None:
    with pytest.raises(GuestFileMissing):
        file_system.stat(path)
    with pytest.raises(GuestFileMissing):
        file_system.target("/empty")
    with pytest.raises(GuestFileMissing):
        file_system.read("/EFI", 0, 1)


def test_a_broken_chain_is_damage(image: Path, tmp_path: Path) -> None:
    """Both tables are zeros, so every chain ends after one cluster, at cluster 0."""
    data = bytearray(image.read_bytes())
    sector, reserved = int.from_bytes(data[11:13], "little"), int.from_bytes(data[14:16], "little")
    table = int.from_bytes(data[22:24], "little") or int.from_bytes(data[36:40], "little")
    start = sector * reserved
    data[start + 8 : start + 2 * sector * table] = bytes(2 * sector * table - 8)
    broken = tmp_path / "broken"
    broken.write_bytes(data)

    file_system = open_file_system(Volume("root", ImageSource(broken)))
    with pytest.raises(FileSystemDamaged):
        file_system.read("/random.bin", 0, 1 << 20)
    file_system.close()
