"""Superblocks as the programs of each file system write them."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.volumes.superblocks import crc32c, find_file_system
from tests.volumes.images import File, Memory, file_of

MAKE = {
    "ext4": (16, "mkfs.ext4 -q -F -b 1024"),
    "ext3": (16, "mkfs.ext3 -q -F"),
    "ext2": (8, "mkfs.ext2 -q -F"),
    "xfs": (304, "mkfs.xfs -q"),
    "btrfs": (112, "mkfs.btrfs --quiet"),
    "ntfs": (8, "mkfs.ntfs --force --fast --quiet"),
    "vfat": (40, "mkfs.vfat -F 32"),
    "swap": (2, "mkswap -q"),
}
BACKED_UP = {"ext4": (1024, 1024), "btrfs": (65536, 4096), "ntfs": (0, 512), "vfat": (0, 512)}
"""Position and size of a superblock that has a backup."""


@pytest.fixture(params=MAKE)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    mebibytes, command = MAKE[request.param]
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run([*command.split(), str(path)], check=True, capture_output=True)
    return request.param, path


def test_a_new_file_system_is_recognized_and_has_no_problem(made: tuple[str, Path]) -> None:
    kind, path = made

    found = find_file_system(file_of(path))
    size = path.stat().st_size
    short = find_file_system(File(path, size - size // 4))

    assert found is not None
    assert (found.kind, found.problems, found.needs_replay) == (kind, (), False)
    if kind != "swap":
        assert short is not None
        assert any("and its slice only" in problem for problem in short.problems)


def test_a_lost_superblock_is_found_by_its_backup(made: tuple[str, Path]) -> None:
    kind, path = made
    offset, length = BACKED_UP.get(kind, (0, 0))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(length))

    found = find_file_system(file_of(path))

    assert found is not None
    assert (found.kind, bool(found.problems)) == (kind, kind in BACKED_UP)


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # RFC 3720, B.4


@settings(max_examples=200)
@given(st.binary(max_size=5000), st.integers(0, 70_000))
def test_any_bytes_have_an_answer(data: bytes, offset: int) -> None:
    find_file_system(Memory(bytes(offset) + data))
