"""Survey of the packs: live, dead and shared objects."""

from dataclasses import dataclass, field

from cbtfs.liveness import ObjectSet
from cbtfs.prune.select import PackUse
from cbtfs.store.catalog.view import View


@dataclass(slots=True)
class _ObjectCount:
    objects: int = 0
    bytes: int = 0
    is_sealed: bool = False

    def add(self, size: int, is_sealed: bool) -> None:
        self.objects += 1
        self.bytes += size
        self.is_sealed = is_sealed


@dataclass(slots=True)
class Survey:
    """Use of all packs, from the marked objects and the catalog."""

    packs: list[PackUse] = field(default_factory=list)
    dead_objects: int = 0
    dead_bytes: int = 0
    shared_objects: int = 0
    """Objects that forgotten and remaining points share."""
    shared_bytes: int = 0


def survey_packs(
    view: View, living: ObjectSet, forgotten: ObjectSet, *, signs: bool = False
) -> Survey:
    """Survey the packs in one pass over all objects. New packs are signed if *signs*."""
    records = view.packs()
    live = {number: _ObjectCount() for number in records}
    dead, shared = _ObjectCount(), _ObjectCount()
    for number, location in view.all_locations():
        frame = location.frame
        size = frame.end - frame.offset
        if number not in living:
            dead.add(size, frame.is_sealed)
            continue
        live[location.pack].add(size, frame.is_sealed)
        if number in forgotten:
            shared.add(size, frame.is_sealed)
    packs = [
        PackUse(number, record.id, record.size, count.objects, count.bytes, count.is_sealed, signs)
        for number, record in records.items()
        for count in (live[number],)
    ]
    return Survey(packs, dead.objects, dead.bytes, shared.objects, shared.bytes)
