"""Secrets, which must not appear in logs, exceptions, tracebacks or process lists."""

import os
import stat
from pathlib import Path
from typing import Final

from cbtfs.errors import UsageError
from cbtfs.process import forbid_core_dumps

_MAX_BYTES: Final = 4096


class Secret:
    """A string that prints as dots; only reveal() returns it, at the point where it is sent.

    A process that creates a secret disables its core dumps.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        forbid_core_dumps()
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret cannot be pickled")


def load_secret(path: Path) -> Secret:
    """Return the first line of the file at *path*; UsageError if empty or readable by others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(_MAX_BYTES)
    except OSError as exc:
        raise UsageError(f"cannot read the password file {path}: {exc.strerror}") from exc
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UsageError(f"others may read the password file {path}: run 'chmod 600 {path}'")
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")  # editors on Windows write a BOM
    except UnicodeDecodeError:
        raise UsageError(f"the password file {path} is not UTF-8 text") from None
    if not text:
        raise UsageError(f"the password file {path} is empty: its first line must be the password")
    return Secret(text)
