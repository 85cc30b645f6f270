"""Verification of the catalog's objects: each location must match the trailer of its pack."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cbtfs.check.report import Problem
from cbtfs.core.frame import Frame
from cbtfs.core.ids import ObjectId, PackId
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import OBJECTS, CatalogDamaged, Location, PackRecord
from cbtfs.store.packs import PackFolder

_BATCH: Final = 4096
_TRAILERS: Final = 16
"""Trailers kept in memory: the catalog's order is that of the packs, except for moved objects."""

CorruptFrames = Mapping[PackId, Mapping[int, Problem]]


@dataclass(slots=True)
class ObjectFindings:
    """Problems of the catalog's objects."""

    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    unreadable: dict[ObjectId, Problem] = field(default_factory=dict)
    """Unreadable objects, each with a problem of this list or of its frame."""


def verify_objects(
    catalog: Catalog, packs: PackFolder, corrupt_frames: CorruptFrames
) -> ObjectFindings:
    """Compare every object of the catalog with its pack."""
    return _ObjectCheck(catalog, packs, corrupt_frames).run()


class _ObjectCheck:
    def __init__(self, catalog: Catalog, packs: PackFolder, corrupt_frames: CorruptFrames) -> None:
        self._catalog = catalog
        self._packs = packs
        self._corrupt_frames = corrupt_frames
        self._trailers: OrderedDict[PackId, dict[int, Frame]] = OrderedDict()
        self._lost: dict[PackId, Problem] = {}
        self._shared: dict[tuple[str, int], Problem] = {}
        self._findings = ObjectFindings()

    def run(self) -> ObjectFindings:
        findings = self._findings
        with self._catalog.view() as view:
            last = view.last_number(OBJECTS)
            records: dict[int, PackRecord] = {}
            try:
                records = view.packs()
            except CatalogDamaged as exc:
                findings.problems.append(Problem("catalog", str(exc)))
        self._compare_sizes(records)
        for number, location in self._locations(last):
            findings.count += 1
            problem = self._compare(records.get(location.pack), location)
            if problem is not None:
                findings.unreadable[number] = problem
        return findings

    def _compare_sizes(self, records: Mapping[int, PackRecord]) -> None:
        for record in records.values():
            try:
                size = self._packs.open(record.id).size
            except (ChunkMissing, DataCorrupt):
                continue
            if size != record.size:
                what = f"pack {record.id} has {size} bytes, expected {record.size}"
                self._findings.problems.append(Problem("pack", what))

    def _locations(self, last: int) -> Iterator[tuple[ObjectId, Location]]:
        for first in range(1, last + 1, _BATCH):
            numbers = [ObjectId(n) for n in range(first, min(first + _BATCH, last + 1))]
            try:
                with self._catalog.view() as view:
                    batch = view.locations(numbers)
            except CatalogDamaged:
                batch = self._readable(numbers)
            yield from batch.items()

    def _readable(self, numbers: list[ObjectId]) -> dict[ObjectId, Location]:
        locations = {}
        for number in numbers:
            try:
                with self._catalog.view() as view:
                    location = view.location(number)
            except CatalogDamaged as exc:
                problem = Problem("catalog", f"object {number}: {exc}")
                self._findings.problems.append(problem)
                self._findings.unreadable[number] = problem
                continue
            if location is not None:
                locations[number] = location
        return locations

    def _compare(self, record: PackRecord | None, location: Location) -> Problem | None:
        if record is None:
            what = f"the catalog has objects in pack number {location.pack}, but not the pack"
            return self._share("unknown", location.pack, Problem("catalog", what))
        frames = self._frames(record.id)
        if isinstance(frames, Problem):
            return frames
        offset = location.frame.offset
        if frames.get(offset) != location.frame:
            what = f"the frames of pack {record.id} differ from those in the catalog"
            return self._share("differs", location.pack, Problem("catalog", what))
        return self._corrupt_frames.get(record.id, {}).get(offset)

    def _share(self, why: str, pack: int, problem: Problem) -> Problem:
        """Return one problem for all objects of a pack that have the same one."""
        known = self._shared.setdefault((why, pack), problem)
        if known is problem:
            self._findings.problems.append(problem)
        return known

    def _frames(self, pack: PackId) -> dict[int, Frame] | Problem:
        """Return the frames of a pack by offset, or the problem of the pack."""
        if pack in self._lost:
            return self._lost[pack]
        known = self._trailers.get(pack)
        if known is None:
            try:
                known = {frame.offset: frame for frame in self._packs.frames(pack)[0]}
            except (ChunkMissing, DataCorrupt) as exc:
                problem = self._lost[pack] = Problem("pack", str(exc), type(exc))
                self._findings.problems.append(problem)
                return problem
            self._trailers[pack] = known
            while len(self._trailers) > _TRAILERS:
                self._trailers.popitem(last=False)
        self._trailers.move_to_end(pack)
        return known
