"""What must hold of data.mdb before LMDB maps it: a damaged file can kill the process.

A file that is shorter than its pages is a SIGBUS; a page that is not what its parent says can be
a SIGABRT. The first is looked at before each opening, the second by LMDB's own verifier, in a
child process, after a writer has died.
"""

import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

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

_VERIFY: Final = (
    "import sys; from lmdb.verify import VerifyError, verify\n"
    "try: found = verify(sys.argv[1], subdir=False)\n"
    "except VerifyError as exc: found = [str(exc)]\n"
    "print('\\n'.join(found[:3])); sys.exit(bool(found))"
)


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
    """What LMDB's structural verifier finds wrong with data.mdb in *folder*; None if nothing."""
    done = subprocess.run(
        [sys.executable, "-c", _VERIFY, folder / DATA],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    return (done.stdout or done.stderr).strip().partition("\n")[0] or f"code {done.returncode}"
