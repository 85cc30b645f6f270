"""The test of a point before a daemon starts over it."""

from contextlib import suppress

from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.liveness import Marker
from cbtfs.store.repository import Repository


def require_objects(repository: Repository, manifest: Manifest) -> None:
    """Walk all block maps of a point; no chunk is read.

    Raises:
        ChunkMissing: an object of the point, or its pack, is missing.
        DataCorrupt: an object of the point is known to be corrupt.
    """
    with repository.catalog.view() as view:
        packs = view.packs()
    present = set()
    for number, record in packs.items():
        with suppress(OSError):
            if repository.packs.size(record.id) == record.size:
                present.add(number)
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
