"""File systems that were in use at the time of the snapshot: replayed, or refused."""

import os
import shutil
from pathlib import Path

import pytest

from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.ext.replayed import REPLAYED
from cbtfs.files.protocol import FileSystemDamaged, FileSystemUnsupported
from tests.files.guest_trees import ImageSource, make, mounted

pytestmark = pytest.mark.mounts


def write_durably(folder: Path, name: str, data: bytes) -> None:
    """Write a file and flush it and its directory."""
    fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def snapshot(folder: Path, options: str, mount: str) -> ImageSource:
    """Return a copy of a mounted file system in which files were flushed."""
    image, copy = folder / "image", folder / "copy"
    make(image, options, 32)
    with mounted(image, mount) as root:
        (root / "directory").mkdir()
        for number in range(50):
            write_durably(root / "directory", f"file{number}", f"content {number}".encode() * 500)
        shutil.copyfile(image, copy)
    return ImageSource(copy)


@pytest.mark.parametrize("mode", ["commit=600", "commit=600,data=journal"])
def test_files_that_a_guest_flushed_are_shown(tmp_path: Path, mode: str) -> None:
    """With data=journal the contents, too, are in the journal only."""
    source = snapshot(tmp_path, "-t ext4 -b 4096", mode)
    file_system = ParsedFileSystem(source, "ext")

    assert list(file_system.notes) == [REPLAYED]
    names = {entry.name for entry in file_system.entries("/directory")}
    assert names == {f"file{number}" for number in range(50)}
    for number in range(50):
        path, data = f"/directory/file{number}", f"content {number}".encode() * 500
        assert file_system.read(path, 0, 1 << 20) == data
        rebuilt = b""
        for extent in file_system.extents(path):
            assert extent.start == len(rebuilt)
            if extent.offset is None:
                rebuilt += file_system.read(path, extent.start, extent.length)
            else:
                rebuilt += source.read(extent.offset, extent.length)
        assert rebuilt == data
    file_system.close()


def test_a_file_system_in_use_without_a_journal_is_refused(tmp_path: Path) -> None:
    source = snapshot(tmp_path, "-t ext4 -O ^has_journal", "noatime")

    with pytest.raises(FileSystemUnsupported, match="files may be missing"):
        ParsedFileSystem(source, "ext")


def test_a_file_system_with_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    source = snapshot(tmp_path, "-t ext4 -b 4096", "commit=600")
    data = bytearray(source.path.read_bytes())
    at = data.index(bytes.fromhex("c03b3998000000040000"))
    data[at : at + 4] = b"XXXX"
    source.path.write_bytes(data)

    with pytest.raises(FileSystemDamaged, match="journal"):
        ParsedFileSystem(source, "ext")


def test_an_unknown_feature_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    make(image, "-t ext4", 8)
    with image.open("r+b") as file:
        file.seek(1024 + 0x63)
        file.write(b"\x80")

    with pytest.raises(FileSystemUnsupported, match="0x80000000"):
        ParsedFileSystem(ImageSource(image), "ext")
