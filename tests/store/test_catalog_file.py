"""The file of a catalog may be shorter than its pages: LMDB does not write trailing free pages."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cbtfs.store.catalog.environment import ENGINE, Environment
from cbtfs.store.catalog.gate import DATA, check_size
from cbtfs.store.catalog.records import POINTS, VMS, CatalogDamaged

MANIFEST = bytes(3000)
"""Value too large for a tree page: LMDB gives it an overflow page at the end of the file."""


def put(transaction: Any, databases: Iterable[Any], key: bytes) -> None:
    for database in databases:
        transaction.put(key, MANIFEST, db=database)


def put_and_drop_all(transaction: Any, databases: Iterable[Any]) -> None:
    """Empty *databases*, which have one key b"a" each, and use more pages in between."""
    put(transaction, databases, b"b")
    for database in databases:
        transaction.delete(b"b", db=database)
        transaction.delete(b"a", db=database)


def bytes_of_pages(folder: Path) -> int:
    with lmdb.open(str(folder), readonly=True, lib_version=ENGINE) as environment:
        return int(environment.info()["last_pgno"] + 1) * int(environment.stat()["psize"])


@pytest.fixture
def unwritten(tmp_path: Path) -> Path:
    """Return a folder with an LMDB file whose last page was used and freed in one transaction."""
    with lmdb.open(str(tmp_path), max_dbs=2, lib_version=ENGINE) as environment:
        databases = [environment.open_db(name) for name in (b"one", b"two")]
        with environment.begin(write=True) as transaction:
            put(transaction, databases, b"a")
        with environment.begin(write=True) as transaction:
            put_and_drop_all(transaction, databases)
    assert (tmp_path / DATA).stat().st_size < bytes_of_pages(tmp_path)
    return tmp_path


def test_a_file_without_its_trailing_free_pages_is_intact(unwritten: Path) -> None:
    before = (unwritten / DATA).read_bytes()

    check_size(unwritten)

    assert (unwritten / DATA).read_bytes() == before


def test_a_file_without_used_pages_is_damaged(unwritten: Path) -> None:
    with (unwritten / DATA).open("r+b") as file:
        file.truncate(3 * 4096)

    with pytest.raises(CatalogDamaged, match="cut short"):
        check_size(unwritten)


def test_a_writer_extends_the_file_to_all_its_pages(tmp_path: Path) -> None:
    environment = Environment(tmp_path, is_writable=True)
    environment.write(lambda t, tables: put(t, (tables[POINTS], tables[VMS]), b"a"))
    environment.write(lambda t, tables: put_and_drop_all(t, (tables[POINTS], tables[VMS])))
    environment.close()

    assert (tmp_path / DATA).stat().st_size == bytes_of_pages(tmp_path)
