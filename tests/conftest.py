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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that mount and all others run in a process each."""
    parser.addoption("--mounting", choices=["only", "not"], help="which tests, by MOUNTING")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what --mounting does not ask for."""
    wanted = config.getoption("--mounting")
    if wanted is None:
        return
    left = [item for item in items if _mounts(item) != (wanted == "only")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if _mounts(item) == (wanted == "only")]


def _mounts(item: pytest.Item) -> bool:
    return item.path.relative_to(ROOT).as_posix().startswith(MOUNTING)
