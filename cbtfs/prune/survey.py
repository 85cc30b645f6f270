"""Survey of the packs: live, dead and shared objects."""

from dataclasses import dataclass, field

from cbtfs.liveness import ObjectSet
from cbtfs.prune.select import PackUse
from cbtfs.store.catalog.view import View


@dataclass(slots=True)
class _ObjectCount:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Survey:
    """Use of all packs, from the marked objects and the catalog."""

    packs: list[PackUse] = field(default_factory=list)
    dead_objects: int = 0
    dead_bytes: int = 0
    shared_objects: int = 0
    """Objects that forgotten and remaining points share."""
    shared_bytes: int = 0


def survey_packs(view: View, living: ObjectSet, forgotten: ObjectSet) -> Survey:
    """Survey the packs in one pass over all objects."""
    records = view.packs()
    live = {number: _ObjectCount() for number in records}
    dead, shared = _ObjectCount(), _ObjectCount()
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
