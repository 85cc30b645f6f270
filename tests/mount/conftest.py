"""Fixtures: a repository with one point, mounted."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.make_points import BLOCK, add_point, new_repository
from tests.mount.mount_process import Server, serving


@pytest.fixture
def image() -> bytearray:
    """Return a disk with data, zeros and an incomplete last block."""
    content = bytearray(random.Random(4).randbytes(96 * BLOCK))
    content[8 * BLOCK : 24 * BLOCK] = bytes(16 * BLOCK)
    return content + b"the end"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def point(repository: Path, image: bytearray) -> Manifest:
    return add_point(repository, {"disk": bytes(image)})


@pytest.fixture
def mounted(repository: Path, point: Manifest, tmp_path: Path) -> Iterator[Server]:
    """Mount the repository, unmount it with umount, and expect exit code 0."""
    with serving(repository, tmp_path / "mnt") as server:
        yield server
    assert server.wait() == 0
