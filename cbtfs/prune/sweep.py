"""Take dead objects out of the catalog."""

from collections.abc import Callable
from itertools import islice
from typing import Final

from cbtfs.core.ids import ObjectId
from cbtfs.liveness import ObjectSet
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import Update

LARGE: Final = 50_000
"""Dead objects that one transaction drops: its pages stay in memory until it is committed."""
SMALL: Final = 500
"""The same where room is tight: a transaction writes anew every page that it touches, and each
digest may lie in a page of its own. 500 pages are 2 MiB."""

_LOOKED_AT: Final = 20
"""Objects looked at in one transaction for each that may be dropped."""


def sweep(
    catalog: Catalog, living: ObjectSet, progress: Callable[[int], None], batch: int = LARGE
) -> int:
    """Drop every object that is not marked; how many.

    In descending order of ids a node goes before what is below it, so whatever transaction is
    the last, what stands in the catalog's digests has its whole subtree standing.
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
