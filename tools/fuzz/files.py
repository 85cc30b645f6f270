"""Fuzz targets for the parsers of ext and FAT file systems, and for indexes of files."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.file_index import decode_header
from cbtfs.core.ids import PointId
from cbtfs.errors import DataCorrupt
from cbtfs.files.engine_parse.child import Parser
from cbtfs.files.ext.replayed import ExtFileSystem
from cbtfs.files.fat.volume import FatFileSystem
from cbtfs.files.index.build import empty_index
from cbtfs.files.index.names import matches, search_for
from cbtfs.files.protocol import (
    Entry,
    FileSystemDamaged,
    FileSystemUnsupported,
    GuestFileMissing,
    Kind,
)
from cbtfs.volumes.source import Source

_ERRORS: Final = (FileSystemDamaged, FileSystemUnsupported, GuestFileMissing)
_MAX_FILES: Final = 300
_MAX_EXTENTS: Final = 300
_MAX_READ: Final = 4096


@dataclass(frozen=True, slots=True)
class _Volume:
    """A volume in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def read_ext(data: bytes) -> None:
    """Read everything in an ext file system."""
    _read_all(data, ExtFileSystem)


def read_fat(data: bytes) -> None:
    """Read everything in a FAT file system."""
    _read_all(data, FatFileSystem)


def _read_all(data: bytes, open_file_system: Callable[[Source], Parser]) -> None:
    """Read everything: no unexpected error, and nothing outside of its bounds."""
    with contextlib.suppress(*_ERRORS):
        file_system = open_file_system(_Volume(data))
        for areas in (None, [Extent(0, len(data))]):
            for folder in islice(file_system.scan(areas), _MAX_FILES):
                assert len(folder.names) == len(folder.modes) == len(folder.modified)
        pending = ["/"]
        for _ in range(_MAX_FILES):
            if not pending:
                break
            path = pending.pop()
            with contextlib.suppress(*_ERRORS):
                pending += _read(file_system, path, len(data))


def _read(file_system: Parser, path: str, size: int) -> list[str]:
    """Read a file with all methods; return the paths of the files in it."""
    entry = file_system.stat(path)
    with contextlib.suppress(*_ERRORS):
        file_system.attributes(path)
    if entry.kind is Kind.LINK:
        file_system.target(path)
    if entry.kind is Kind.FILE:
        _read_content(file_system, path, entry, size)
    if entry.kind is not Kind.DIRECTORY or path.count("/") > 5:
        return []
    entries = list(islice(file_system.entries(path), _MAX_FILES))
    assert not any("/" in child.name or child.name in ("", ".", "..") for child in entries)
    return [f"{path.rstrip('/')}/{child.name}" for child in entries]


def _read_content(file_system: Parser, path: str, entry: Entry, size: int) -> None:
    end = 0
    for extent in islice(file_system.extents(path), _MAX_EXTENTS):
        assert end <= extent.start < extent.end <= entry.size
        end = extent.end
        if extent.offset is not None:
            assert extent.offset < 1 << 64
    for offset in (0, max(entry.size - _MAX_READ, 0), size):
        data = file_system.read(path, offset, _MAX_READ)
        assert len(data) == min(_MAX_READ, max(entry.size - offset, 0))


def ext_seeds() -> list[bytes]:
    """Return two file systems: with extents and inline data, and with lists of blocks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = folder / "content"
        (content / "directory").mkdir(parents=True)
        (content / "file").write_bytes(b"content" * 600)
        (content / "small").write_bytes(b"inline")
        (content / "link").symlink_to("file")
        (content / "directory" / "long-link").symlink_to("x" * 100)
        (content / "sparse").write_bytes(b"")
        os.truncate(content / "sparse", 1 << 20)
        return [
            _make(folder, content, "-t", "ext4", "-I", "256", "-O", "inline_data,^has_journal"),
            _make(folder, content, "-t", "ext2", "-I", "128"),
        ]


def _make(folder: Path, content: Path, *options: str) -> bytes:
    image = folder / "image"
    image.unlink(missing_ok=True)
    size = "-b", "1024", "-N", "24"
    subprocess.run(
        ["mke2fs", "-q", "-F", *size, *options, "-d", content, image, "96"],
        check=True,
        capture_output=True,
    )
    return image.read_bytes()


def read_index(data: bytes) -> None:
    """Decode a header of an index, and search names; a valid header has valid parts."""
    with contextlib.suppress(ValueError):
        layout = decode_header(data)
        assert len(layout.offsets) == len(layout.header.segments) + 1
        assert all(segment.files >= 0 for segment in layout.header.segments)
    for pattern in ("*", "*.docx", "[!a]?*"):
        with contextlib.suppress(DataCorrupt):
            for match in matches(data, search_for(pattern)):
                assert match.number >= 0
                assert "\0" not in match.path


def index_seeds() -> list[bytes]:
    """Return an index, and the names of a segment."""
    header = empty_index(PointId("0" * 32), DataCorrupt("damaged"))[0]
    return [header, b"/0:/etc\0hosts\0passwd\0/4:/ssh\0sshd.docx"]


def fat_seeds() -> list[bytes]:
    """Return two file systems: with entries of 12 and of 16 bits, and with long names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "a long name.text"
        file.write_bytes(b"content" * 300)
        return [_fat(folder, file, "12", 128), _fat(folder, file, "16", 4200)]


def _fat(folder: Path, file: Path, bits: str, sectors: int) -> bytes:
    image = folder / "fat"
    image.write_bytes(bytes(sectors * 512))
    commands: list[list[str | Path]] = [
        ["mkfs.vfat", "-F", bits, "-s", "1", "-r", "16", image],
        ["mmd", "-i", image, "::/folder"],
        ["mcopy", "-i", image, file, "::/folder/"],
        ["mcopy", "-i", image, file, "::/SHORT"],
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return image.read_bytes().rstrip(b"\0")
