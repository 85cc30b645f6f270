"""Key files and recovery sheets: written once, readable by their owner alone."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.core.keyfile import SECRET_BYTES, encode_key_file
from cbtfs.core.moment import format_moment
from cbtfs.errors import UsageError
from cbtfs.store.files import write_all

_SHEET: Final = """\
RECOVERY SHEET of the cbtfs repository {repository}
at {path}, written {when}

Whoever has this sheet can read all data of the repository. Without a key the
data is lost. Print the sheet, keep it away from the repository, and delete
the file.

To use it, type the last line into a file, run 'chmod 600 FILE', then:
    cbtfs --repo DIR --key-file FILE key test
Dashes and spaces between the digits do not matter.
"""
_KEY_FILE: Final = """\
Key of the cbtfs repository {repository}, written {when}
Whoever has this file can read all data of the repository.
"""


def new_key_file(path: Path, repository: str, *, sheet_of: Path | None = None) -> bytes:
    """Create a key file at *path* durably; return its secret.

    *sheet_of* is the path of a repository for whose recovery the file is printed.

    Raises:
        UsageError: the file exists or cannot be created.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    when = format_moment(datetime.now(UTC).replace(microsecond=0))
    text = _KEY_FILE if sheet_of is None else _SHEET
    comment = text.format(repository=repository, path=sheet_of, when=when)
    write_new(path, encode_key_file(secret, comment))
    return secret


def write_new(path: Path, text: str) -> None:
    """Create a file with secrets durably; UsageError if it exists or cannot be created."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        try:
            os.fchmod(fd, 0o600)
            write_all(fd, [text.encode()])
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileExistsError as exc:
        raise UsageError(f"{path} exists: name a new file for the key") from exc
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
