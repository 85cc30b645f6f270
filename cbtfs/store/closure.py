"""Chooses the packs of capture keys that all writers may count, after a reader has verified them.

A node that counts must have a subtree that counts. So the pack of a node is chosen only together
with the packs of its children, or after them.
"""

from collections.abc import Collection

from cbtfs.core.frame import Kind
from cbtfs.core.ids import PackId
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog.view import View
from cbtfs.store.packs import PackFolder


def closed_packs(view: View, packs: PackFolder, verified: Collection[PackId]) -> set[PackId]:
    """Return those of the *verified* packs whose nodes have children in such packs only.

    Children in packs that count already are in order, too.
    """
    unverified = view.unverified_packs()
    needs: dict[int, set[int]] = {}
    for number, record in unverified.items():
        if record.id in verified:
            needed = _needed(view, packs, number, record.id)
            if needed is not None:
                needs[number] = needed & unverified.keys()
    while incomplete := [number for number, needed in needs.items() if needed - needs.keys()]:
        for number in incomplete:
            del needs[number]
    return {unverified[number].id for number in needs}


def _needed(view: View, packs: PackFolder, number: int, pack: PackId) -> set[int] | None:
    """Return the packs with the children of the nodes of a pack.

    None if the catalog lacks a node: objects below it may be planted later.
    """
    needed = set[int]()
    try:
        for frame in packs.frames(pack)[0]:
            if frame.kind is not Kind.NODE:
                continue
            node = view.find_at(frame.kind, frame.level, frame.digest, number, frame.offset)
            if node is None:
                if view.find_counted(frame.kind, frame.level, frame.digest, b"") is None:
                    return None
                continue  # It has a copy that counts, and so has its subtree.
            children = [child for child in view.children(node) if child]
            needed |= {location.pack for location in view.locations(children).values()}
    except (ChunkMissing, DataCorrupt, CatalogDamaged):
        return None
    return needed
