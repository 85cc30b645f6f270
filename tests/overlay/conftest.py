"""Fixture: a site for overlays on a fast file system, which leaves no mount behind."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.make_points import MEMORY
from tests.overlay.overlay_site import OverlaySite


@pytest.fixture
def site() -> Iterator[OverlaySite]:
    with tempfile.TemporaryDirectory(prefix="overlay-", dir=MEMORY) as path:
        site = OverlaySite(Path(path))
        yield site
        site.end()
