"""Rewrite nodes whose frames are corrupt or lost, from the digests of their children."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cbtfs.core.frame import Kind
from cbtfs.core.ids import ObjectId, Ref
from cbtfs.errors import ChunkMissing, DataCorrupt, RepositoryNotFound
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import OBJECTS, CatalogDamaged, Location
from cbtfs.store.catalog.view import Node
from cbtfs.store.codec import Encoded, Encoder
from cbtfs.store.digest import node_content
from cbtfs.store.identity import new_pack_id
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.packs import PackFolder
from cbtfs.store.quarantine import CorruptFrame
from cbtfs.store.storing import storing
from cbtfs.store.writer import ObjectWriter

_BATCH: Final = 4096


def rewrite_corrupt_nodes(
    catalog: Catalog, objects: ObjectWriter, frames: Iterable[CorruptFrame]
) -> None:
    """Put the nodes of corrupt *frames* again, the lowest level first.

    A node whose children the catalog does not know stays in quarantine until an ingest puts it.
    """
    for frame in sorted(frames, key=lambda frame: frame.level):
        if frame.kind is Kind.NODE:
            try:
                with catalog.view() as view:
                    number = view.find(frame.kind, frame.level, frame.digest)
                    node = None if number is None else view.node(number, frame.level, frame.digest)
            except CatalogDamaged:
                continue
            if node is not None:
                objects.put_node(frame.level, [*_refs(node)])


def _refs(node: Node) -> Iterator[Ref | None]:
    for number, digest in zip(node.children, node.digests(), strict=True):
        yield None if digest is None else Ref(number, digest)


def rewrite_lost_nodes(folder: Path, packs: PackFolder, level: int) -> int:
    """Write nodes that the packs have lost and the catalog still knows to new packs; their number.

    Loads the frame of every node. Does nothing if the catalog in *folder* fails verification. The
    catalog is not updated, because its caller rebuilds it.
    """
    if not (folder / gate.DATA).exists() or gate.verify(folder) is not None:
        return 0
    try:
        catalog = Catalog(
            folder, is_writable=False, digester=packs.digester, signer=packs.own_signer
        )
    except (RepositoryNotFound, CatalogDamaged):
        return 0
    try:
        return _write(_lost_nodes(catalog, packs, Encoder(level)), packs)
    except CatalogDamaged:
        return 0
    finally:
        catalog.close()


def _write(nodes: Iterable[Encoded], packs: PackFolder) -> int:
    writer, written = None, 0
    try:
        for node in nodes:
            with storing("a pack"):
                if writer is None:
                    writer = packs.create(new_pack_id())
                writer.append(node)
                written += 1
                if writer.size >= PACK_BYTES:
                    full, writer = writer, None
                    full.close()
        if writer is not None:
            last, writer = writer, None
            with storing("a pack"):
                last.close()
    finally:
        if writer is not None:
            with storing("a pack"):
                writer.abandon()
    return written


def _lost_nodes(catalog: Catalog, packs: PackFolder, encoder: Encoder) -> Iterator[Encoded]:
    """Yield nodes of the catalog whose frames cannot be loaded, the lowest level first."""
    for number, location in _nodes(catalog):
        frame = location.frame
        try:
            with catalog.view() as view:
                record = view.pack(location.pack)
            if record is not None:
                packs.open(record.id).load(frame)
                continue
        except (ChunkMissing, DataCorrupt):
            pass
        try:
            with catalog.view() as view:
                node = view.node(number, frame.level, frame.digest)
        except CatalogDamaged:
            continue
        content = node_content(node.digests())
        yield encoder.encode(Kind.NODE, frame.level, frame.digest, content)


def _nodes(catalog: Catalog) -> Iterator[tuple[ObjectId, Location]]:
    with catalog.view() as view:
        last = view.last_number(OBJECTS)
    for first in range(1, last + 1, _BATCH):
        numbers = [ObjectId(n) for n in range(first, min(first + _BATCH, last + 1))]
        try:
            with catalog.view() as view:
                locations = view.locations(numbers)
        except CatalogDamaged:
            continue
        for number, location in locations.items():
            if location.frame.kind is Kind.NODE:
                yield number, location
