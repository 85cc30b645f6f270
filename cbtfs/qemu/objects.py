"""The test of a point before a daemon starts over it."""

from typing import Final

from cbtfs.core.blockmap import Shape
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.liveness import Marker
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository

_ADVICE: Final = "run 'cbtfs check'"
_WALKS: Final = 3
"""Maximum number of walks: a prune may move objects to new packs during one."""


def require_intact(repository: Repository, manifest: Manifest) -> None:
    """Test that the repository has all objects of a point, as far as packs and catalog tell.

    A root that the catalog knows has its whole subtree in the catalog (docs/architecture.md,
    "Catching up"). So if no pack of the repository is damaged, only the root is loaded, and the
    time does not depend on the sizes of disks. Otherwise the block maps are walked, because the
    point may have no need of the pack or object.

    Raises:
        ChunkMissing: an object of the point, or its pack, is missing.
        DataCorrupt: an object of the point is known to be corrupt.
    """
    if repository.quarantined() or not all(_packs(repository).values()):
        require_objects(repository, manifest)
        return
    reader = Reader(repository, cache_bytes=0)
    for disk in manifest.disks:
        where = f"point {manifest.point} of {manifest.vm.name}, disk {disk.label}"
        try:
            root = reader.root(disk)
            if root is not None:
                reader.node(root, Shape(disk.size, disk.block_size).height)
        except ChunkMissing as exc:
            raise ChunkMissing(f"{where}: {exc}; {_ADVICE}") from exc
        except DataCorrupt as exc:
            raise type(exc)(f"{where}: {exc}") from exc


def require_objects(repository: Repository, manifest: Manifest) -> None:
    """Walk all block maps of a point; no chunk is read.

    Raises:
        ChunkMissing: an object of the point, or its pack, is missing.
        DataCorrupt: an object of the point is known to be corrupt.
    """
    marker = _marked(repository, manifest)
    with repository.catalog.view() as view:
        for digest, frame in repository.quarantined().items():
            corrupt = view.find(frame.kind, frame.level, digest)
            if corrupt is not None and marker.marked.has(corrupt):
                raise DataCorrupt(
                    f"point {manifest.point} needs object {digest.hex()}, which is corrupt: run "
                    "'cbtfs check --read-data'"
                )


def _marked(repository: Repository, manifest: Manifest) -> Marker:
    """Mark the objects of a point; ChunkMissing as require_objects()."""
    packs = _packs(repository)
    for _ in range(_WALKS):
        marker = Marker(repository.catalog, {number for number in packs if packs[number]})
        try:
            marker.mark([manifest])
        except ChunkMissing as exc:
            missing, before = exc, packs
            packs = _packs(repository)
            if packs.keys() == before.keys():
                break
        else:
            return marker
    raise ChunkMissing(f"{missing}; {_ADVICE}") from missing


def _packs(repository: Repository) -> dict[int, bool]:
    """Return for each pack of the catalog, by number, whether it exists and has its size."""
    with repository.catalog.view() as view:
        records = view.packs()
    try:
        sizes = repository.packs.sizes()
    except OSError as exc:
        raise DataCorrupt(f"cannot list the packs: {exc.strerror}; {_ADVICE}") from exc
    return {number: sizes.get(record.id) == record.size for number, record in records.items()}
