"""How hypothesis runs here, and which tests one process has to itself."""

from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

# Without a deadline, as machines that test are shared.
settings.register_profile(
    "cbtfs", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cbtfs")

ROOT: Final = Path(__file__).parent
MOUNTING: Final = (
    "audit/test_shown.py",
    "bench/",
    "crash/",
    "lifecycle/",
    "mount/",
    "source/test_device.py",
    "test_demo.py",
    "test_docs.py",
    "test_hostile.py",
    "test_operations.py",
    "test_recipes.py",
    "test_restore.py",
    "vsphere/test_chain.py",
    "vsphere/test_getting_back.py",
)
"""Tests that mount, or make namespaces: a mount lives on in a namespace that another one made."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, one has all that mount; of the rest, each has files."""
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        group = "mounting" if name.startswith(MOUNTING) else name
        item.add_marker(pytest.mark.xdist_group(group))
