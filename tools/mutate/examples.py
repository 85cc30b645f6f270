"""pytest plugin that reduces the number of examples per property."""

import os
from typing import Final

import pytest
from hypothesis import settings

EXAMPLES: Final = "CBTFS_MUTATE_EXAMPLES"
"""Variable with the number of examples, for tests without a number of their own."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Load a profile with that number, before tests are imported."""
    few = int(os.environ[EXAMPLES])
    settings.register_profile("few", settings.get_profile("cbtfs"), max_examples=few)
    settings.load_profile("few")
