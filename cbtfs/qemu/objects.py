"""The test of a point before a daemon starts over it."""

from contextlib import suppress

from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.liveness import Marker
from cbtfs.store.repository import Repository


def has_intact_packs(repository: Repository) -> bool:
    """Return whether all packs of the catalog have their sizes, and no object is in quarantine.

    The time does not depend on the sizes of disks. Then every point has its chunks, as far as
    their packs tell; only nodes of block maps may be missing or corrupt.
    """
    return not repository.quarantined() and all(_packs(repository).values())


def _packs(repository: Repository) -> dict[int, bool]:
    """Return for each pack of the catalog, by number, whether it exists and has its size."""
    with repository.catalog.view() as view:
        records = view.packs()
    present = dict.fromkeys(records, False)
    for number, record in records.items():
        with suppress(OSError):
            present[number] = repository.packs.size(record.id) == record.size
    return present


def require_objects(repository: Repository, manifest: Manifest) -> None:
    """Walk all block maps of a point; no chunk is read.

    Raises:
        ChunkMissing: an object of the point, or its pack, is missing.
        DataCorrupt: an object of the point is known to be corrupt.
    """
    present = {number for number, is_there in _packs(repository).items() if is_there}
    marker = Marker(repository.catalog, present)
    try:
        marker.mark([manifest])
    except ChunkMissing as exc:
        raise ChunkMissing(f"{exc}; run 'cbtfs check'") from exc
    with repository.catalog.view() as view:
        for digest, frame in repository.quarantined().items():
            corrupt = view.find(frame.kind, frame.level, digest)
            if corrupt is not None and marker.marked.has(corrupt):
                raise DataCorrupt(
                    f"point {manifest.point} needs object {digest.hex()}, which is corrupt: run "
                    "'cbtfs check --read-data'"
                )
