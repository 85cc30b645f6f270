"""Sources of keys: options, variables, the configuration, keyrings and a prompt, in this order."""

import ctypes
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import pyrage
import pytest

from cbtfs.store.encryption import ring, slots
from cbtfs.store.encryption.credentials import Credentials, use
from cbtfs.store.settings import load_settings
from tests.cli.keys import forgetful_runner, no_key, secret
from tests.cli.run_cbtfs import Run, read_terminal
from tools.crash.child import Send, run_child

__all__ = ["no_key"]  # a fixture

MEMORY = "--kdf-memory=8"
ADD_KEY = 248
PROCESS_KEYRING = -2
"""Of add_key(2) on x86-64."""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration of the test."""
    file = secret(tmp_path / "config.toml", "")
    monkeypatch.setenv("CBTFS_CONFIG", str(file))
    return file


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on a repository; each command has to find its key."""
    return forgetful_runner(tmp_path / "repo", capsys)


@pytest.fixture
def phrase(tmp_path: Path, run: Run) -> str:
    """Create a repository that a passphrase opens; return it."""
    file = secret(tmp_path / "phrase", "right horse\n")
    assert run("init", "--encrypt", "--no-recovery", MEMORY, "--passphrase-file", file).code == 0
    return "right horse"


def test_each_key_of_the_configuration_opens_the_repository(
    tmp_path: Path, run: Run, phrase: str
) -> None:
    identity = pyrage.x25519.Identity.generate()
    given = ("--passphrase-file", tmp_path / "phrase")
    flip = secret(
        tmp_path / "flip",
        f"#!{sys.executable}\nimport sys\n"
        "sys.stdout.buffer.write(bytes(b ^ 1 for b in sys.stdin.buffer.read()))\n",
    )
    flip.chmod(0o700)
    for words in (
        ("--new-key-file", tmp_path / "file.key"),
        ("--age-recipient", str(identity.to_public())),
        ("--wrap-command", flip),
    ):
        assert run("key", "add", *given, *words).code == 0
    secret(tmp_path / "age.key", f"# created by a test\n{identity}\n")
    secret(tmp_path / "wrong", "wrong\n")
    config = tmp_path / "config.toml"

    for text, label in (
        ('key-file = "file.key"', "file.key"),  # Relative to the configuration.
        (f'key-file = ["{tmp_path}/age.key"]', "age"),
        ('passphrase-file = ["wrong", "phrase"]', "passphrase"),
        (f"command = '{flip}'", "command"),
    ):
        secret(config, f"[keys]\n{text}\n")
        assert label in run("key", "test").out
        assert run("list").code == 0
        failed = run("list", "--passphrase-file", tmp_path / "wrong")
        assert failed.code == 14, "options replace the configuration"
    config.write_text("")
    assert run("list").code == 14


def test_a_variable_replaces_the_configuration(
    tmp_path: Path, run: Run, phrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret(tmp_path / "config.toml", '[keys]\npassphrase-file = "phrase"\n')
    assert run("list").code == 0

    monkeypatch.setenv("CBTFS_PASSPHRASE_FILE", str(secret(tmp_path / "wrong", "wrong\n")))

    assert run("list").code == 14


def test_a_configuration_that_others_may_change_is_refused(
    tmp_path: Path, run: Run, phrase: str
) -> None:
    """It could name a program, which then runs as this user."""
    config = secret(tmp_path / "config.toml", "[keys]\ncommand = 'true'\n")
    config.chmod(0o620)

    result = run("list")

    assert result.code == 2
    assert "others may write" in result.err


keyring: Any = import_module("keyring")
"""The library of the extra of this name."""


def holding(service: str, text: str | None) -> Any:
    """Return a keyring of the library with one password; None: it is locked."""

    def get_password(_: object, wanted: str, user: str) -> str | None:
        if text is None:
            raise keyring.errors.KeyringLocked("locked")
        return text if (wanted, user) == (service, "repository") else None

    members = {"priority": 1, "get_password": get_password, "set_password": None}
    return type("Held", (keyring.backend.KeyringBackend,), members)()


@pytest.fixture
def service(tmp_path: Path, phrase: str) -> Iterator[str]:
    before = keyring.get_keyring()
    yield f"cbtfs {load_settings(tmp_path / 'repo').id}"
    keyring.set_keyring(before)


def test_a_keyring_opens_the_repository(run: Run, phrase: str, service: str) -> None:
    keyring.set_keyring(holding(service, phrase))
    assert run("list").code == 0

    for held in (holding(service, "wrong"), holding("cbtfs other", phrase), holding(service, None)):
        keyring.set_keyring(held)
        result = run("list")
        assert result.code == 14
        assert len(result.err.splitlines()) == 1


def test_the_kernels_keyring_opens_the_repository(tmp_path: Path, phrase: str) -> None:
    """A key in the keyring of a process."""
    path = tmp_path / "repo"
    name = load_settings(path).id

    def work(send: Send) -> None:
        use(Credentials())
        ring.drop_all()
        data = phrase.encode()
        call = ctypes.CDLL(None).syscall
        key = call(ADD_KEY, b"user", f"cbtfs:{name}".encode(), data, len(data), PROCESS_KEYRING)
        send({"key": key, "slot": ring.open_slot(path, name).slot.label})

    result = run_child(work)

    assert result.values("key")[0] > 0
    assert result.values("slot") == ["passphrase"]


@pytest.mark.parametrize(("typed", "code"), [("right horse", 0), ("wrong", 14)])
def test_a_terminal_is_asked_and_shows_nothing(
    tmp_path: Path, phrase: str, typed: str, code: int
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cbtfs", "--repo", str(tmp_path / "repo"), "key", "test"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as asker:
        os.close(theirs)
        shown = os.read(ours, 1000)
        while b": " not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, typed.encode() + b"\n")
        text = shown.decode() + read_terminal(ours)
    os.close(ours)

    assert asker.returncode == code
    assert "passphrase of " in text
    assert typed not in text
    assert len(text.splitlines()) == 2


def test_argon2_has_the_memory_of_one_passphrase(
    tmp_path: Path, run: Run, phrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 threads unlock two repositories: each once, and never two at the same time."""
    file = tmp_path / "phrase"
    other = ("--repo", tmp_path / "other")
    words = ("init", "--encrypt", "--no-recovery", MEMORY, "--passphrase-file", file)
    assert run(*other, *words).code == 0
    running, most, derived = 0, 0, 0

    library = vars(slots)["Argon2id"]

    class Counted:
        def __init__(self, **parameters: Any) -> None:
            self._function = library(**parameters)

        def derive(self, passphrase: bytes) -> Any:
            nonlocal running, most, derived
            running, derived = running + 1, derived + 1
            most = max(most, running)
            result = self._function.derive(passphrase)
            running -= 1
            return result

    monkeypatch.setattr(slots, "Argon2id", Counted)
    ring.drop_all()
    use(Credentials(passphrase_files=(file,)))
    paths = [tmp_path / ("repo", "other")[n % 2] for n in range(40)]

    threads = [Thread(target=ring.keys_of, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (derived, most) == (2, 1)
