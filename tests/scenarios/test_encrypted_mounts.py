"""Mounts of encrypted repositories whose key is rotated beside them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE
from tests.cli.run_cbtfs import process
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point
from tests.mount.mount_process import serving

pytestmark = pytest.mark.mounts

BLOCKS = 300


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    create_encrypted(tmp_path / "repo", encrypted_settings(BLOCK))
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(write_key(tmp_path / "key")))
    yield tmp_path / "repo"
    ring.drop_all()


def read_blocks(file: Path, expected: bytes) -> tuple[int, int]:
    """Read each block of *file*; return the numbers of right blocks and of those that fail."""
    right = failed = 0
    fd = os.open(file, os.O_RDONLY)
    try:
        for at in range(0, len(expected), BLOCK):
            os.posix_fadvise(fd, at, BLOCK, os.POSIX_FADV_DONTNEED)
            try:
                data = os.pread(fd, BLOCK, at)
            except OSError:
                failed += 1
            else:
                assert data == expected[at : at + BLOCK]
                right += 1
    finally:
        os.close(fd)
    return right, failed


def test_a_mount_reads_right_bytes_or_fails_while_packs_are_encrypted_again(
    path: Path, tmp_path: Path
) -> None:
    """It knows the keys of its start; a new mount reads everything."""
    first, second = (os.urandom(BLOCKS * BLOCK) for _ in range(2))
    point = add_point(path, {"disk": first}, vm="v")
    with serving(path, tmp_path / "mount", "--workers", "2") as server:
        file = server.disk(point)
        assert read_blocks(file, first) == (BLOCKS, 0)

        assert process("--repo", path, "key", "rotate").code == 0
        assert read_blocks(file, first) == (BLOCKS, 0)
        later = add_point(path, {"disk": second}, vm="w")
        assert process("--repo", path, "prune", "--rekey", "--max-unused", "100%").code == 0
        right, failed = read_blocks(file, first)

        assert right + failed == BLOCKS
        assert server.process.poll() is None
    with serving(path, tmp_path / "again") as server:
        assert read_blocks(server.disk(point), first) == (BLOCKS, 0)
        assert read_blocks(server.disk(later), second) == (BLOCKS, 0)
