"""Profiles of hypothesis, time limits of tests, and the parts of the suite."""

import gc
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

PARTS: Final = ("mounts", "programs", "vsphere", "rest")
"""Tests with the marker `mounts`; tests of the manual, the demo, the tools, and of commands that
start other programs; scenarios against the simulator; all other tests."""
TESTS: Final = Path(__file__).parent
_PROGRAMS: Final = [
    *("docs", "demo", "tools", "overlay", "export", "prove", "bisect"),
    *("prune", "restore"),
]
PROGRAMS: Final = frozenset(TESTS / name for name in _PROGRAMS)
VSPHERE: Final = TESTS / "scenarios" / "vsphere"

pytest_plugins = ["tests.watchdog.plugin", "tests.object_store"]

_state = TemporaryDirectory(prefix="cbtfs-test-state-")
os.environ["XDG_STATE_HOME"] = _state.name
"""Clients remember encrypted repositories; tests leave no state in the home directory."""

if "CBTFS_TEST_ENCRYPTED" in os.environ:
    from tests.encrypted import encrypt_all, forget_clients

    encrypt_all()
    new_client = pytest.fixture(autouse=True)(forget_clients)

if "CBTFS_TEST_SHARED" in os.environ:
    from tests.shared_writers import share_all

    share_all()

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
    """Add the option that splits the suite into parts, which run at the same time."""
    parser.addoption("--part", choices=PARTS, help="run one part of the suite")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the folders of other parts: importing them takes seconds."""
    part = config.getoption("--part")
    if part is None or not collection_path.is_dir():
        return None
    places = {collection_path, *collection_path.parents}
    in_programs, in_vsphere = not PROGRAMS.isdisjoint(places), VSPHERE in places
    if part == "programs":
        return None if in_programs or collection_path == TESTS else True
    if part == "vsphere":
        return None if in_vsphere or collection_path in VSPHERE.parents else True
    return True if in_programs or (in_vsphere and part == "rest") else None


def pytest_collection_finish() -> None:
    """Take what the collection has imported out of the garbage collector's later passes."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of other parts than --part."""
    part = config.getoption("--part")
    if part is None:
        return
    config.hook.pytest_deselected(items=[item for item in items if _part(item) != part])
    items[:] = [item for item in items if _part(item) == part]


def _part(item: pytest.Item) -> str:
    if not PROGRAMS.isdisjoint(item.path.parents):
        return "programs"
    if item.get_closest_marker("mounts") is not None:
        return "mounts"
    return "vsphere" if VSPHERE in item.path.parents else "rest"
