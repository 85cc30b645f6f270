"""Mounts of encrypted repositories whose key is rotated beside them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.cli.main import main
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point
from tests.mount.mount_process import serving, wait_until

pytestmark = pytest.mark.mounts

BLOCKS = 40


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
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # A read-ahead that fails fills the log.
    try:
        for at in range(0, len(expected), BLOCK):
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


def test_a_mount_reads_what_is_encrypted_again_after_a_rotation(path: Path, tmp_path: Path) -> None:
    """Its key file opens the new slot, too."""
    first, second = (os.urandom(BLOCKS * BLOCK) for _ in range(2))
    point, repo = add_point(path, {"disk": first}, vm="v"), ("--repo", str(path))
    with serving(path, tmp_path / "mount", "--workers", "2") as server:
        file = server.disk(point)
        assert read_blocks(file, first) == (BLOCKS, 0)

        assert main([*repo, "key", "rotate"]) == 0
        assert read_blocks(file, first) == (BLOCKS, 0)
        later = add_point(path, {"disk": second}, vm="w")
        assert main([*repo, "prune", "--rekey", "--max-unused=100%"]) == 0

        assert read_blocks(file, first) == (BLOCKS, 0)
        assert wait_until(server.disk(later).exists)
        assert read_blocks(server.disk(later), second) == (BLOCKS, 0)


def test_a_mount_with_a_key_that_was_dropped_reads_right_bytes_or_fails(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new mount with the new key reads everything."""
    content = os.urandom(BLOCKS * BLOCK)
    point, repo = add_point(path, {"disk": content}, vm="v"), ("--repo", str(path))
    new = tmp_path / "new.key"
    with serving(path, tmp_path / "mount", "--workers", "2") as server:
        file = server.disk(point)
        assert main([*repo, "key", "add", f"--new-key-file={new}"]) == 0
        monkeypatch.setenv(KEY_FILE_VARIABLE, str(new))
        assert main([*repo, "key", "rotate", "--drop-others"]) == 0
        assert main([*repo, "prune", "--rekey", "--max-unused=100%"]) == 0
        right, failed = read_blocks(file, content)

        assert right + failed == BLOCKS
        assert failed > 0
        assert server.process.poll() is None
    with serving(path, tmp_path / "again") as server:
        assert read_blocks(server.disk(point), content) == (BLOCKS, 0)
