"""Fixtures: a repository, and a function that runs commands on the repository."""

from pathlib import Path

import pytest

from tests.cli.run_cbtfs import Run, runner
from tests.make_points import new_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def run(repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(repository, capsys)
