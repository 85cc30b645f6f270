"""NTFS by libfsntfs shows the files that ntfs-3g has written."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from cbtfs.files.parsing import open_file_system
from cbtfs.files.protocol import FileSystem, FileSystemUnsupported, Kind
from cbtfs.files.volumes import Volume
from tests.cli.run_cbtfs import Run
from tests.files.damaged import campaign
from tests.files.guest_trees import ImageSource, paths_below
from tests.make_points import add_point, new_repository

pytestmark = pytest.mark.mounts

FILES: Final = 300
DAMAGED_IMAGES: Final = int(os.environ.get("CBTFS_DAMAGED_IMAGES", "12"))
"""Set it to 10000 for a campaign of hours."""
TEXT: Final = "compressible " * 20_000


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    root = image.with_suffix(".mnt")
    root.mkdir(exist_ok=True)
    subprocess.run(["ntfs-3g", image, root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)


def fill(root: Path) -> None:
    (root / "Windows" / "System32").mkdir(parents=True)
    (root / "Windows" / "small").write_text("resident")
    (root / "compressed").write_text(TEXT)
    with (root / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(3_000_000)
        file.write(b"data")
    (root / "random").write_bytes(random.Random(1).randbytes(300_001))
    for name in ("ümläut", "n" * 255, "日本語", "a\x1b[31m", " space "):
        (root / name).write_text(name)
    (root / "many").mkdir()
    for number in range(FILES):
        (root / "many" / f"file {number}").write_text(str(number))
    for number in range(0, FILES, 7):
        (root / "many" / f"file {number}").unlink()
    os.setxattr(root / "random", "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    os.utime(root / "random", ns=(10**18, 1_500_000_000_987_654_300))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("ntfs") / "image"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkntfs", "-q", "-F", "-C", image], check=True, capture_output=True)
    with mounted(image) as root:
        fill(root)
    return image


@pytest.fixture(scope="module")
def file_system(image: Path) -> Iterator[FileSystem]:
    opened = open_file_system(Volume("root", ImageSource(image)))
    yield opened
    opened.close()


def test_files_are_equal_to_those_of_ntfs_3g(image: Path, file_system: FileSystem) -> None:
    with mounted(image) as root:
        paths = {path for path in paths_below(root) if path != "/"}
        assert set(walked(file_system)) == paths
        for path in paths:
            original, entry = root / path[1:], file_system.stat(path)
            assert (entry.kind is Kind.DIRECTORY) == original.is_dir()
            assert entry.modified_ns == original.stat().st_mtime_ns
            if entry.kind is Kind.FILE:
                data = original.read_bytes()
                assert entry.size == len(data)
                assert content(file_system, path, entry.size) == data


def walked(file_system: FileSystem, path: str = "") -> Iterator[str]:
    for entry in file_system.entries(path or "/"):
        yield f"{path}/{entry.name}"
        if entry.kind is Kind.DIRECTORY:
            yield from walked(file_system, f"{path}/{entry.name}")


def content(file_system: FileSystem, path: str, size: int) -> bytes:
    data = bytearray(size)
    for extent in file_system.extents(path):
        for at in range(extent.start, extent.end, 1 << 20):
            part = file_system.read(path, at, min(1 << 20, extent.end - at))
            data[at : at + len(part)] = part
    return bytes(data)


def test_alternate_data_streams_are_attributes(file_system: FileSystem) -> None:
    assert file_system.attributes("/random") == {
        "user.Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n"
    }


def test_a_guest_with_windows_has_drive_letters(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.cli.run_cbtfs import runner

    repository = new_repository(tmp_path / "repository", 1 << 16)
    add_point(repository, {"root": image.read_bytes()}, vm="win01")
    run: Run = runner(repository, capsys)

    done = run("files", "extract", "win01:/C/Windows", tmp_path, "--json")

    assert done.code == 0
    assert (tmp_path / "Windows" / "small").read_text() == "resident"
    [extracted] = done.document["extracted"]
    assert extracted["file_systems"][0]["kind"] == "ntfs"


def test_a_dirty_journal_is_reported(image: Path, tmp_path: Path) -> None:
    """The dirty flag of $Volume, the fourth record of the MFT, is set."""
    data = bytearray(image.read_bytes())
    cluster = int.from_bytes(data[48:56], "little")
    record = cluster * data[13] * 512 + 3 * 1024
    at = data.index(bytes(8) + b"\x03\x01\0\0", record, record + 1024)
    data[at + 10] |= 1
    dirty = tmp_path / "dirty"
    dirty.write_bytes(data)

    file_system = open_file_system(Volume("root", ImageSource(dirty)))

    assert file_system.notes == [
        "read without replay, so the last changes may be missing: its dirty flag is set"
    ]
    file_system.close()


def test_the_missing_library_is_named(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbtfs.files.parsing.find_spec", lambda name: None)

    with pytest.raises(FileSystemUnsupported, match=r"pip install 'cbtfs\[files\]'"):
        open_file_system(Volume("root", ImageSource(image)))


@pytest.mark.limit(36_000)
def test_damaged_images_do_no_harm(image: Path) -> None:
    """A parser that crashes or hangs fails one call."""
    results = campaign("ntfs", image, DAMAGED_IMAGES)

    assert sum(results.values()) == DAMAGED_IMAGES
