"""Sources of the secrets that open key slots: files, a program, the keyring, a prompt.

They are a setting of the process, like its user: one process opens several repositories with them,
and threads of it share the result (ring.py). No secret is ever in an argument list.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cbtfs.core.keyfile import MAX_KEY_FILE_BYTES, decode_key_file
from cbtfs.errors import KeyUnavailable, UsageError

PASSPHRASE_VARIABLE: Final = "CBTFS_PASSPHRASE_FILE"
KEY_FILE_VARIABLE: Final = "CBTFS_KEY_FILE"
COMMAND_VARIABLE: Final = "CBTFS_KEY_COMMAND"
MAX_PASSPHRASE_BYTES: Final = 4096
_COMMAND_SECONDS: Final = 120
_SYSCALLS: Final = {"x86_64": (249, 250), "aarch64": (218, 219)}
"""Numbers of request_key(2) and keyctl(2)."""
_KEYCTL_READ: Final = 11


@dataclass(frozen=True, slots=True)
class Credentials:
    """Sources of secrets, in the order in which they are tried."""

    key_files: tuple[Path, ...] = ()
    passphrase_files: tuple[Path, ...] = ()
    command: str | None = None
    """Program that decrypts the key of a slot: from standard input to standard output."""
    may_prompt: bool = True

    @property
    def is_empty(self) -> bool:
        return not (self.key_files or self.passphrase_files or self.command)


NO_CREDENTIALS: Final = Credentials()


class _Setting:
    given = NO_CREDENTIALS
    configured = NO_CREDENTIALS


_piped: dict[Path, bytes] = {}
"""Content of pipes that were read: each can be read once."""


def use(given: Credentials, configured: Credentials = NO_CREDENTIALS) -> None:
    """Set the sources of the command line, and those of the configuration file.

    The command line replaces the environment, which replaces the configuration.
    """
    _Setting.given, _Setting.configured = given, configured
    _piped.clear()


def credentials(variables: Mapping[str, str] = os.environ) -> Credentials:
    """Return the sources of this process: those that use() describes."""
    if not _Setting.given.is_empty:
        return _Setting.given
    key_file, passphrase = variables.get(KEY_FILE_VARIABLE), variables.get(PASSPHRASE_VARIABLE)
    found = Credentials(
        (Path(key_file),) if key_file else (),
        (Path(passphrase),) if passphrase else (),
        variables.get(COMMAND_VARIABLE) or None,
    )
    return _Setting.configured if found.is_empty else found


def load_private(path: Path, limit: int) -> bytes:
    """Return the content of a file with a secret; UsageError if others may read it."""
    if path in _piped:
        return _piped[path]
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            if stat.S_ISREG(facts.st_mode) and facts.st_mode & 0o077:
                raise UsageError(f"others may access {path}: run 'chmod 600 {path}'")
            data = file.read(limit + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > limit:
        raise UsageError(f"{path} is too large for a secret: more than {limit} bytes")
    if not stat.S_ISREG(facts.st_mode):
        _piped[path] = data
    return data


def load_passphrase(path: Path) -> bytes:
    """Return the first line of a passphrase file; UsageError if it is empty."""
    line = load_private(path, MAX_PASSPHRASE_BYTES).split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise UsageError(f"the passphrase in {path} is empty: write it on the first line")
    return line


def is_age_identity(data: bytes) -> bool:
    """Return whether a key file is an age identity."""
    return b"AGE-SECRET-KEY-" in data


def load_key_file(path: Path) -> bytes:
    """Return the secret of a key file of cbtfs; UsageError if it is none."""
    data = load_private(path, MAX_KEY_FILE_BYTES)
    try:
        return decode_key_file(data.decode())
    except ValueError as exc:
        raise UsageError(f"{path} is not a key file: {exc}") from exc


def passphrases(found: Credentials, repository: str, shown: Path) -> Iterator[bytes]:
    """Yield passphrases from files, or else from the keyrings, or else from a prompt."""
    for file in found.passphrase_files:
        yield load_passphrase(file)
    if not found.is_empty:
        return
    for keyring in (_from_kernel, _from_keyring):
        secret = keyring(repository)
        if secret:
            yield secret
            return
    if found.may_prompt and sys.stdin is not None and sys.stdin.isatty():
        yield ask(f"passphrase of {shown}: ")


def ask(prompt: str) -> bytes:
    """Return a passphrase from the terminal."""
    from getpass import getpass

    return getpass(prompt).encode()


def _from_kernel(repository: str) -> bytes | None:
    """Return the key "cbtfs:<repository>" of type user in the kernel's keyrings (keyrings(7))."""
    import ctypes
    import platform

    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        return None
    request_key, keyctl = numbers
    call: Callable[..., int] = ctypes.CDLL(None).syscall
    key = call(request_key, b"user", f"cbtfs:{repository}".encode(), None, 0)
    if key < 0:
        return None
    buffer = ctypes.create_string_buffer(MAX_PASSPHRASE_BYTES)
    length = call(keyctl, _KEYCTL_READ, key, buffer, len(buffer))
    return bytes(buffer.raw[:length]) if 0 < length <= len(buffer) else None


def _from_keyring(repository: str) -> bytes | None:
    """Return the password of `cbtfs <repository>` in the user's keyring, if it is installed."""
    try:
        keyring: Any = import_module("keyring")
    except ImportError:
        return None
    with suppress(keyring.errors.KeyringError):
        secret = keyring.get_password(f"cbtfs {repository}", "repository")
        return None if secret is None else str(secret).encode()
    return None


def run_key_command(command: str, data: bytes, limit: int) -> bytes:
    """Return the output of *command* for the input *data*; no shell is involved.

    Raises:
        UsageError: the command cannot be parsed.
        KeyUnavailable: it failed, or printed more than *limit* bytes.
    """
    import shlex

    from cbtfs.process import TimeoutExpired, pipe_through, search_path

    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise UsageError(f"invalid key command {command!r}: {exc}") from exc
    if not words:
        raise UsageError("the key command is empty")
    try:
        # The program may need its user's settings, such as VAULT_ADDR.
        env = {**os.environ, "PATH": search_path()}
        done = pipe_through(words, data, _COMMAND_SECONDS, env=env)
    except (OSError, TimeoutExpired) as exc:
        raise KeyUnavailable(f"cannot run the key command {words[0]}: {exc}") from exc
    if done.returncode or len(done.stdout) > limit:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise KeyUnavailable(f"the key command {words[0]} failed: {why}")
    return done.stdout
