"""What a catalog takes, and what a reader asks of it."""

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
    """Pages that hold something, and how many chunks they tell of."""

    used_bytes: int
    chunks: int

    @property
    def bytes_per_chunk(self) -> float:
        return self.used_bytes / self.chunks


def catalog_use(repository: Path) -> CatalogUse:
    """How large the catalog of *repository* is; free pages do not count."""
    folder = repository / "catalog"
    catalog = Catalog(folder, is_writable=False)
    with catalog.view() as view:
        chunks = sum(place.frame.kind is Kind.CHUNK for _, place in view.all_locations())
    catalog.close()
    environment = lmdb.open(str(folder), readonly=True, max_dbs=len(DATABASES), lib_version=0)
    with environment, environment.begin() as transaction:
        facts = [environment.stat()]
        facts += [transaction.stat(environment.open_db(name, transaction)) for name in DATABASES]
    pages = sum(f["branch_pages"] + f["leaf_pages"] + f["overflow_pages"] for f in facts)
    return CatalogUse(pages * facts[0]["psize"], chunks)


@contextmanager
def counted_lookups() -> Iterator[Callable[[], int]]:
    """Count what readers of this process ask the catalog for; a node counts as one."""
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
