"""Detection of an encrypted repository that was put back to an older state, by its points.

The functions do nothing for a repository without encryption.
"""

from collections.abc import Collection
from pathlib import Path

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.settings import Settings
from cbtfs.errors import DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.encryption.known import known_of
from cbtfs.store.points import Points


def _heads(catalog: Catalog) -> dict[VmId, tuple[int, PointId]]:
    """Return order number and id of the newest point of each VM."""
    heads = {}
    with catalog.view() as view:
        for vm in view.vms():
            newest = next(view.points_of(vm, newest_first=True), None)
            if newest is not None:
                heads[vm] = newest
    return heads


def refuse_older(path: Path, settings: Settings, catalog: Catalog, points: Points) -> None:
    """Raise DataCorrupt if points are gone that this client has seen: an older state is back.

    Remembers the newest points.
    """
    if not settings.is_encrypted:
        return
    known, heads = known_of(settings.id), _heads(catalog)
    older = known.older_heads(heads)
    if older:
        kept = points.ids() | points.forgotten_ids()
        lost = sorted(point for point in older.values() if point not in kept)
        if lost:
            raise DataCorrupt(
                f"{path} is older than it was: point {lost[0]}, which was the newest of its VM, is "
                f"gone ({len(lost)} in all); if another host removed it on purpose, remove "
                f"{known.path}"
            )
    known.see_heads(heads)


def remember_heads(settings: Settings, catalog: Catalog) -> None:
    """Remember the newest points, after points were committed."""
    if settings.is_encrypted:
        known_of(settings.id).see_heads(_heads(catalog))


def save_known(settings: Settings) -> None:
    """Save what this client has seen of a repository."""
    if settings.is_encrypted:
        known_of(settings.id).save()


def forget_heads(settings: Settings, catalog: Catalog, points: Collection[PointId]) -> None:
    """Forget that *points*, which this client removes, were the newest of their VMs."""
    if not settings.is_encrypted:
        return
    known, heads = known_of(settings.id), _heads(catalog)
    gone = {*points}
    known.see_heads(heads, [vm for vm, p in known.older_heads(heads).items() if p in gone])
