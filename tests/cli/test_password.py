"""The password comes from a file, the environment, the keyring or a prompt, in this order."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cbtfs.cli.options.password import PASSWORD_VARIABLE, find_password
from cbtfs.errors import UsageError

ASK = """
from cbtfs.cli.options.password import find_password

print(find_password(None, "vc1", "me").reveal()[::-1])
"""


class FakeKeyring(ModuleType):
    """The part of the package that is used: one password for one host and user."""

    class errors:
        class KeyringError(Exception):
            pass

    def __init__(self, *, is_locked: bool = False) -> None:
        super().__init__("keyring")
        self._is_locked = is_locked

    def get_password(self, service: str, user: str) -> str | None:
        if self._is_locked:
            raise self.errors.KeyringError("locked")
        return "from the keyring" if (service, user) == ("cbtfs vc1", "me") else None


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "keyring", FakeKeyring())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("from the file\nnot this\n")
    path.chmod(0o600)
    return path


def test_a_file_goes_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "from the environment")

    assert find_password(file, "vc1", "me").reveal() == "from the file"


def test_a_byte_order_mark_is_no_part_of_the_password(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfsecret\r\nmore")

    assert find_password(file, "vc1", "me").reveal() == "secret"


def test_a_file_that_others_may_read_is_refused(file: Path) -> None:
    file.chmod(0o640)

    with pytest.raises(UsageError, match="chmod 600"):
        find_password(file, "vc1", "me")


def test_the_environment_wins_over_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "from the environment")

    assert find_password(None, "vc1", "me").reveal() == "from the environment"


def test_the_keyring_is_asked_for_host_and_user() -> None:
    assert find_password(None, "vc1", "me").reveal() == "from the keyring"


@pytest.mark.parametrize("is_locked", [False, True])
def test_there_is_no_password_without_a_source_and_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", FakeKeyring(is_locked=is_locked))
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)

        with pytest.raises(UsageError, match="--password-file"):
            find_password(None, "vc2", "me")


def test_a_terminal_is_asked_and_shows_nothing() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", ASK]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
    ) as asker:
        os.close(theirs)
        shown = os.read(ours, 1000)
        while b": " not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, b"secret\n")
        assert asker.stdout is not None
        answer = asker.stdout.read()
    shown += os.read(ours, 1000)
    os.close(ours)

    assert b"password of me at vc1: " in shown
    assert b"secret" not in shown
    assert answer == b"terces\n"
