"""Fixtures of tests that run commands on a repository of their own, the fixture `repository`."""

from pathlib import Path

import pytest

from tests.cli.run_cbtfs import Run, runner


@pytest.fixture
def run(repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(repository, capsys)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of temporary files, where private mounts and images are."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path
