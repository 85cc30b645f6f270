"""Sources of a password. It is never read from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.source.secret import Secret

PASSWORD_VARIABLE: Final = "CBTFS_VSPHERE_PASSWORD"


def has_password_variable() -> bool:
    """Return whether the environment has a password."""
    return bool(os.environ.get(PASSWORD_VARIABLE))


def find_password(file: Path | None, host: str, user: str) -> Secret:
    """Return the password from *file*, the environment, the keyring or a prompt, in this order.

    UsageError if there is no terminal for the prompt.
    """
    from cbtfs.source.secret import Secret, load_secret

    if file is not None:
        return load_secret(file)
    text = os.environ.get(PASSWORD_VARIABLE) or _from_keyring(host, user)
    if text:
        return Secret(text)
    if not sys.stdin.isatty():
        raise UsageError(
            f"no password: use --password-file, or set {PASSWORD_VARIABLE} or password-file in "
            "the configuration"
        )
    from getpass import getpass

    return Secret(getpass(f"password of {user} at {host}: "))


def _from_keyring(host: str, user: str) -> str | None:
    """Return the password of `cbtfs <host>` in the user's keyring, if keyring is installed."""
    from importlib import import_module

    try:
        keyring: Any = import_module("keyring")
    except ImportError:
        return None
    try:
        secret = keyring.get_password(f"cbtfs {host}", user)
    except keyring.errors.KeyringError:
        return None
    return None if secret is None else str(secret)
