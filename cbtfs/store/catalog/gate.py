"""What must hold of data.mdb before LMDB maps it: a damaged file can kill the process.

A file that is shorter than its pages is a SIGBUS; a page that is not what its parent says can be
a SIGABRT. The first is looked at before each opening, the second by LMDB's own verifier, in a
child process, after a writer has died.
"""

import errno
import mmap
import os
import signal
import struct
from pathlib import Path
from typing import Final

from cbtfs import process
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
    found = verify(sys.argv[1], subdir=False)
except (VerifyError, Error, ValueError) as exc:
    found = [str(exc) or type(exc).__name__]
except MemoryError:
    sys.exit({_NO_MEMORY})
print(*found[:3], sep="\\n")
sys.exit({_DAMAGED} if found else 0)
"""
"""Exit codes of its own: an interpreter that fails to start says nothing about the file."""
_VERIFY_SECONDS: Final = 600
_BYTES_PER_SECOND: Final = 1 << 20
"""The verifier is slow: about 25 MB/s were measured. A storage that hangs must not hang a run."""


def check_size(folder: Path) -> None:
    """CatalogDamaged if data.mdb in *folder* lacks pages that are in use, or is no such file.

    LMDB may not write its last pages when they are free again: then its verifier has the word.
    """
    fd = open_regular(folder / DATA)
    try:
        size = os.fstat(fd).st_size
        page, last, transaction = 0, -1, -1
        for at in (0, mmap.PAGESIZE):
            found = _meta_at(fd, at)
            if found is not None and found[2] > transaction:
                page, last, transaction = found
    finally:
        os.close(fd)
    if last < 0:
        raise CatalogDamaged("data.mdb has no valid meta page")
    if size < (last + 1) * page and verify(folder) is not None:
        raise CatalogDamaged(f"data.mdb is cut short: {size} bytes, {(last + 1) * page} needed")


def _meta_at(fd: int, offset: int) -> tuple[int, int, int] | None:
    """Page size, last page and transaction id of the meta page there."""
    data = read_exactly(fd, offset + _PAGE_HEADER, _META.size)
    if len(data) < _META.size:
        return None
    magic, version, _, _, page, _, _, last, transaction = _META.unpack(data)
    if magic != _MAGIC or version != _VERSION or not _MIN_PAGE <= page <= _MAX_PAGE:
        return None
    return page, last, transaction


def verify(folder: Path) -> str | None:
    """What LMDB's structural verifier finds wrong with data.mdb in *folder*; None if nothing.

    Raises:
        DataCorrupt: it is no regular file.
        OutOfResources: the verifier could not be run, or was killed for its memory.
    """
    fd = open_regular(folder / DATA)  # the child would wait at a FIFO
    seconds = _VERIFY_SECONDS + os.fstat(fd).st_size // _BYTES_PER_SECOND
    os.close(fd)
    try:
        done = process.run(process.interpreter(_VERIFY, folder / DATA), seconds)
    except OSError as exc:
        refuse_shortage(exc, "cannot start the catalog's verifier")
        raise CbtfsError(f"cannot start the catalog's verifier: {exc.strerror}") from exc
    except process.TimeoutExpired as exc:
        raise CbtfsError(
            f"verifying the catalog did not end in {seconds} s: look for a storage that hangs"
        ) from exc
    if done.returncode == 0:
        return None
    if done.returncode in (_NO_MEMORY, -signal.SIGKILL):
        raise OutOfResources(f"the catalog's verifier was killed or ended: {explain(errno.ENOMEM)}")
    words = (done.stdout if done.returncode == _DAMAGED else done.stderr).strip().splitlines()
    if done.returncode != _DAMAGED and done.returncode > 0:
        why = words[-1] if words else f"it ended with {done.returncode}"
        raise CbtfsError(f"the catalog's verifier does not run: {why}; look at the installation")
    return words[0] if words else f"the verifier ended with {done.returncode}"
