"""Repositories of these tests are in memory if the machine has a memory file system."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.make_points import MEMORY


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a directory in memory: these tests do not cut the power, and flushes are slow."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)
