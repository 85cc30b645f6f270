"""Where the repositories of these tests stand: in memory, where there is room for files there."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.make_points import MEMORY


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of its own. What lasts after a power cut is not asked here, and flushes are slow."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)
