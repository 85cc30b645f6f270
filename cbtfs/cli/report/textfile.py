"""Atomic replacement of a small file that another program reads."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, UsageError

_MODE: Final = 0o644
"""Readable by node_exporter, which runs as another user."""


def check_writable(path: Path) -> None:
    """Raise UsageError if *path* is not writable. Call this before the work starts."""
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory; name a file")
    if not folder.is_dir():
        raise UsageError(f"cannot write {path}: directory {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: directory {folder} is not writable")


def replace_text(path: Path, text: str) -> None:
    """Replace the content of *path* atomically: readers see the old or the new text.

    A new file has mode 644; an existing one keeps its mode and, if permitted, its owner. The
    temporary name ends in `.tmp`, which a collector of `*.prom` ignores.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(aside, flags, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode())
                _dress(file.fileno(), path)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
    except OSError as exc:
        raise CbtfsError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _dress(fd: int, path: Path) -> None:
    """Copy mode and owner of the file at *path* to *fd*."""
    mode = _MODE
    with suppress(FileNotFoundError):
        before = path.lstat()
        if path.is_file() and not path.is_symlink():
            mode = before.st_mode & 0o777
            with suppress(PermissionError):
                os.fchown(fd, before.st_uid, before.st_gid)
    os.fchmod(fd, mode)
