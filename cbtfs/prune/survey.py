"""How much of each pack is needed, and by how many."""

from dataclasses import dataclass, field

from cbtfs.liveness import ObjectSet
from cbtfs.prune.select import PackUse
from cbtfs.store.catalog.view import View


@dataclass(slots=True)
class _Count:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Survey:
    """What marks and catalog say of the packs."""

    packs: list[PackUse] = field(default_factory=list)
    dead_objects: int = 0
    dead_bytes: int = 0
    shared_objects: int = 0
    """What forgotten points had in common with those that stay."""
    shared_bytes: int = 0


def survey(view: View, living: ObjectSet, forgotten: ObjectSet) -> Survey:
    """Go through all objects once."""
    records = view.packs()
    live = {number: _Count() for number in records}
    dead, shared = _Count(), _Count()
    for number, location in view.all_locations():
        frame = location.frame
        size = frame.end - frame.offset
        if number not in living:
            dead.add(size)
            continue
        live[location.pack].add(size)
        if number in forgotten:
            shared.add(size)
    packs = [
        PackUse(number, record.id, record.size, live[number].objects, live[number].bytes)
        for number, record in records.items()
    ]
    return Survey(packs, dead.objects, dead.bytes, shared.objects, shared.bytes)
