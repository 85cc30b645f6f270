"""How hypothesis runs here; the time limits of tests; which tests one process has to itself."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.watchdog.plugin"]

# Without a deadline, as machines that test are shared.
settings.register_profile(
    "cbtfs", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cbtfs")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that mount and all others run in a process each."""
    parser.addoption("--mounting", choices=["only", "not"], help="which tests, by marker 'mounts'")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what --mounting does not ask for."""
    wanted = config.getoption("--mounting")
    if wanted is None:
        return
    left = [item for item in items if _mounts(item) != (wanted == "only")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if _mounts(item) == (wanted == "only")]


def _mounts(item: pytest.Item) -> bool:
    return item.get_closest_marker("mounts") is not None
