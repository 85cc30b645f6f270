"""Profiles of hypothesis, time limits of tests, and the tests that run in a separate process."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.watchdog.plugin"]

# Without a deadline, as machines that test are shared.
settings.register_profile(
    "cbtfs",
    deadline=None,
    max_examples=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("cbtfs"), max_examples=1000)
settings.load_profile("cbtfs")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs tests with mounts and all others in separate processes."""
    parser.addoption("--mounting", choices=["only", "not"], help="which tests, by marker 'mounts'")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that --mounting excludes."""
    wanted = config.getoption("--mounting")
    if wanted is None:
        return
    left = [item for item in items if _mounts(item) != (wanted == "only")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if _mounts(item) == (wanted == "only")]


def _mounts(item: pytest.Item) -> bool:
    return item.get_closest_marker("mounts") is not None
