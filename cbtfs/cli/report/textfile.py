"""A small file that another program reads: replaced at once, readable, never half."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, UsageError

_MODE: Final = 0o644
"""node_exporter runs as a user of its own."""


def check_writable(path: Path) -> None:
    """UsageError if no file can be put at *path*: to be known before an hour of work."""
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder, name a file in it")
    if not folder.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {folder}, make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: the folder {folder} is not writable")


def replace_text(path: Path, text: str) -> None:
    """Let *path* hold *text*; who reads it sees the old or the new one.

    A new file can be read by all; one that is there keeps its mode and, as far as that is allowed,
    its owner. The name in between ends in `.tmp`, which a collector of `*.prom` passes over.
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
    """Give a file the mode and owner of the one whose place it takes."""
    mode = _MODE
    with suppress(FileNotFoundError):
        before = path.lstat()
        if path.is_file() and not path.is_symlink():
            mode = before.st_mode & 0o777
            with suppress(PermissionError):
                os.fchown(fd, before.st_uid, before.st_gid)
    os.fchmod(fd, mode)
