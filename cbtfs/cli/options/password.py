"""Where a password comes from; never from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.source.secret import Secret

PASSWORD_VARIABLE: Final = "CBTFS_VSPHERE_PASSWORD"


def find_password(file: Path | None, host: str, user: str) -> Secret:
    """From the file, the environment, the keyring, or a prompt; in this order.

    UsageError if there is nobody to ask.
    """
    from cbtfs.source.secret import Secret, load_secret

    if file is not None:
        return load_secret(file)
    text = os.environ.get(PASSWORD_VARIABLE) or _from_keyring(host, user)
    if text:
        return Secret(text)
    if not sys.stdin.isatty():
        raise UsageError(f"no password: give --password-file, or set {PASSWORD_VARIABLE}")
    from getpass import getpass

    return Secret(getpass(f"password of {user} at {host}: "))


def _from_keyring(host: str, user: str) -> str | None:
    """What the user's keyring keeps for `cbtfs <host>`, where the package is installed."""
    from importlib import import_module

    try:
        keyring: Any = import_module("keyring")
    except ImportError:
        return None
    try:
        found = keyring.get_password(f"cbtfs {host}", user)
    except keyring.errors.KeyringError:
        return None
    return None if found is None else str(found)
