"""pytest plugin: properties are tried with few examples, whatever the suite's profile says."""

import os
from typing import Final

import pytest
from hypothesis import settings

EXAMPLES: Final = "CBTFS_MUTATE_EXAMPLES"
"""How many, for tests that do not say so themselves."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Load a profile with that number, before tests are imported."""
    few = int(os.environ[EXAMPLES])
    settings.register_profile("few", settings.get_profile("cbtfs"), max_examples=few)
    settings.load_profile("few")
