"""Size of a catalog, and the number of look-ups that a reader makes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

from cbtfs.core.frame import Kind
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import DATABASES
from cbtfs.store.catalog.view import View


@dataclass(frozen=True, slots=True)
class CatalogUse:
    """Bytes in used pages, and the number of chunks in the catalog."""

    used_bytes: int
    chunks: int

    @property
    def bytes_per_chunk(self) -> float:
        return self.used_bytes / self.chunks


def catalog_use(repository: Path) -> CatalogUse:
    """Return the size of the catalog of *repository* without its free pages."""
    folder = repository / "catalog"
    catalog = Catalog(folder, is_writable=False)
    with catalog.view() as view:
        chunks = sum(location.frame.kind is Kind.CHUNK for _, location in view.all_locations())
    catalog.close()
    environment = lmdb.open(str(folder), readonly=True, max_dbs=len(DATABASES), lib_version=0)
    with environment, environment.begin() as transaction:
        stats = [environment.stat()]
        stats += [transaction.stat(environment.open_db(name, transaction)) for name in DATABASES]
    pages = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
    return CatalogUse(pages * stats[0]["psize"], chunks)


@contextmanager
def counted_lookups() -> Iterator[Callable[[], int]]:
    """Count the catalog look-ups of all readers in this process; a node counts as one."""
    names = ("node", "find", "location", "locations", "pack")
    original = {name: getattr(View, name) for name in names}
    count = 0

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            return call(*arguments, **named)

        return counted

    for name, call in original.items():
        setattr(View, name, counting(call))
    try:
        yield lambda: count
    finally:
        for name, call in original.items():
            setattr(View, name, call)
