"""Tests of commands that find their keys: a start without keys, and files with secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import Credentials, use
from tests.cli.run_cbtfs import CommandResult, Run, runner


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start and end without keys, in each test of a module that imports this."""
    for name in ("CBTFS_KEY_FILE", "CBTFS_PASSPHRASE_FILE", "CBTFS_KEY_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    ring.drop_all()
    yield
    ring.drop_all()
    use(Credentials())


def forgetful_runner(repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs one command on *repository*, which has to find its key."""
    command = runner(repository, capsys)

    def run(*words: str | Path) -> CommandResult:
        ring.drop_all()
        use(Credentials())
        return command(*words)

    return run


def secret(path: Path, text: str) -> Path:
    """Write *text* to a file that only its owner can read."""
    path.write_text(text)
    path.chmod(0o600)
    return path
