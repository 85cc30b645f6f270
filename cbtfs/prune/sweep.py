"""Sweep: removes dead objects from the catalog."""

from collections.abc import Callable
from itertools import islice
from typing import Final

from cbtfs.core.ids import ObjectId
from cbtfs.liveness import ObjectSet
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update

LARGE: Final = 50_000
"""Dead objects per transaction, whose pages stay in memory until the commit."""
SMALL: Final = 500
"""Dead objects per transaction if space is low: a transaction copies every page that it touches,
and each digest may be in a different page. 500 pages are 2 MiB."""

_LOOKED_AT: Final = 20
"""Objects visited per transaction for each that may be dropped."""


def sweep(
    catalog: Catalog, living: ObjectSet, progress: Callable[[int], None], batch: int = LARGE
) -> int:
    """Drop every object that is not in *living*; return their number.

    Ids descend, so a node is dropped before its children: after any transaction, every object in
    the database of digests has its whole subtree there.
    """
    with catalog.view() as view:
        below = view.next_object()
    catalog.update(lambda update: update.keep_numbers())
    dropped = 0
    while below:
        end = below

        def change(update: Update, end: int = end) -> tuple[int, int]:
            dead: list[tuple[ObjectId, Location]] = []
            last = 0
            for number, location in islice(update.locations_below(end), batch * _LOOKED_AT):
                last = number
                if number not in living:
                    dead.append((number, location))
                    if len(dead) >= batch:
                        break
            if dead:
                update.drop_objects(dead)
            return last, len(dead)

        below, count = catalog.update(change)
        dropped += count
        progress(count)
    return dropped
