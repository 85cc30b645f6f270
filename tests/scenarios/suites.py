"""Runs of tests of other modules, with a variable that tests/conftest.py reads."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def assert_tests_pass(tests: Sequence[str], unwanted: Sequence[str], variable: str) -> None:
    """Run *tests* but those named in *unwanted*, in a process of their own with *variable*."""
    words = ["-q", "-k", " and ".join(f"not {name}" for name in unwanted), *tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env={**os.environ, variable: "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:]
