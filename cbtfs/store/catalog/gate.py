"""Checks of data.mdb before LMDB maps it, because a damaged file can kill the process.

A file that is shorter than its pages causes SIGBUS. A page that contradicts its parent can cause
SIGABRT. The first is checked before each opening. The second is checked by LMDB's own verifier, in
a child process, after a writer has died.
"""

import errno
import mmap
import os
import signal
import struct
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, OutOfResources
from cbtfs.shortage import explain, refuse_shortage
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.files import open_regular, read_exactly

DATA: Final = "data.mdb"

# Two meta pages of MDB_meta behind a 16-byte page header: magic, version, address, map size, two
# MDB_db of 48 bytes (the first one's pad is the page size), last page, transaction id (lmdb.h 0.9).
_META = struct.Struct("<IIQQI44s48sQQ")
_PAGE_HEADER: Final = 16
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_MIN_PAGE, _MAX_PAGE = 512, 65536

_DAMAGED, _NO_MEMORY = 3, 4
_VERIFY: Final = f"""
from lmdb import Error
from lmdb.verify import VerifyError, verify
try:
    problems = verify(sys.argv[1], subdir=False)
except (VerifyError, Error, ValueError) as exc:
    problems = [str(exc) or type(exc).__name__]
except MemoryError:
    sys.exit({_NO_MEMORY})
print(*problems[:3], sep="\\n")
sys.exit({_DAMAGED} if problems else 0)
"""
"""Own exit codes, because an interpreter that fails to start proves nothing about the file."""
_VERIFY_SECONDS: Final = 600
_BYTES_PER_SECOND: Final = 1 << 20
"""Time limit of the verifier, which was measured at 25 MB/s: hung storage must not hang a run."""


def check_size(folder: Path) -> None:
    """Raise CatalogDamaged if data.mdb in *folder* lacks pages in use or has no valid meta page.

    LMDB may leave free pages at the end unwritten, so its verifier decides about a short file.
    """
    fd = open_regular(folder / DATA)
    try:
        size = os.fstat(fd).st_size
        page, last, transaction = 0, -1, -1
        for at in (0, mmap.PAGESIZE):
            meta = _meta_at(fd, at)
            if meta is not None and meta[2] > transaction:
                page, last, transaction = meta
    finally:
        os.close(fd)
    if last < 0:
        raise CatalogDamaged("data.mdb has no valid meta page")
    if size < (last + 1) * page and verify(folder) is not None:
        raise CatalogDamaged(f"data.mdb is cut short: {size} bytes, {(last + 1) * page} needed")


def _meta_at(fd: int, offset: int) -> tuple[int, int, int] | None:
    """Return page size, last page and transaction id of a meta page; None if it is invalid."""
    data = read_exactly(fd, offset + _PAGE_HEADER, _META.size)
    if len(data) < _META.size:
        return None
    magic, version, _, _, page, _, _, last, transaction = _META.unpack(data)
    if magic != _MAGIC or version != _VERSION or not _MIN_PAGE <= page <= _MAX_PAGE:
        return None
    return page, last, transaction


def verify(folder: Path) -> str | None:
    """Run LMDB's structural verifier on data.mdb in *folder*; return the first error or None.

    Raises:
        DataCorrupt: data.mdb is not a regular file.
        OutOfResources: the verifier could not be started, or was killed for its memory.
        CbtfsError: the verifier failed, or did not end within its time limit.
    """
    from cbtfs import process  # here, because most commands start no child

    fd = open_regular(folder / DATA)  # The child would block on a FIFO.
    seconds = _VERIFY_SECONDS + os.fstat(fd).st_size // _BYTES_PER_SECOND
    os.close(fd)
    try:
        done = process.run(process.interpreter(_VERIFY, folder / DATA), seconds)
    except OSError as exc:
        refuse_shortage(exc, "cannot start the catalog's verifier")
        raise CbtfsError(f"cannot start the catalog's verifier: {exc.strerror}") from exc
    except process.TimeoutExpired as exc:
        raise CbtfsError(
            f"verifying the catalog did not end within {seconds} s: check for hung storage"
        ) from exc
    if done.returncode == 0:
        return None
    if done.returncode in (_NO_MEMORY, -signal.SIGKILL):
        raise OutOfResources(f"the catalog's verifier was killed or ended: {explain(errno.ENOMEM)}")
    words = (done.stdout if done.returncode == _DAMAGED else done.stderr).strip().splitlines()
    if done.returncode != _DAMAGED and done.returncode > 0:
        why = words[-1] if words else f"it ended with {done.returncode}"
        raise CbtfsError(f"the catalog's verifier does not run: {why}; check the installation")
    return words[0] if words else f"the verifier ended with {done.returncode}"
