"""The catalog's objects against the packs: each one inside its pack, as the trailer has it."""

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
"""Objects stand in the catalog as they stand in packs, but for those that were moved."""

BadFrames = Mapping[PackId, Mapping[int, Problem]]


@dataclass(slots=True)
class ObjectFindings:
    """What is wrong with the catalog's objects."""

    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    bad: dict[ObjectId, Problem] = field(default_factory=dict)
    """Objects that cannot be had, each with a problem: one of these, or its frame's."""


def verify_objects(catalog: Catalog, packs: PackFolder, bad_frames: BadFrames) -> ObjectFindings:
    """Compare every object of the catalog with its pack."""
    return _Comparison(catalog, packs, bad_frames).run()


class _Comparison:
    def __init__(self, catalog: Catalog, packs: PackFolder, bad_frames: BadFrames) -> None:
        self._catalog = catalog
        self._packs = packs
        self._bad_frames = bad_frames
        self._trailers: OrderedDict[PackId, dict[int, Frame]] = OrderedDict()
        self._lost: dict[PackId, Problem] = {}
        self._shared: dict[tuple[str, int], Problem] = {}
        self._found = ObjectFindings()

    def run(self) -> ObjectFindings:
        found = self._found
        with self._catalog.view() as view:
            last = view.last_number(OBJECTS)
            records: dict[int, PackRecord] = {}
            try:
                records = view.packs()
            except CatalogDamaged as exc:
                found.problems.append(Problem("catalog", str(exc)))
        self._look_at_sizes(records)
        for number, location in self._locations(last):
            found.count += 1
            problem = self._compare(records.get(location.pack), location)
            if problem is not None:
                found.bad[number] = problem
        return found

    def _look_at_sizes(self, records: Mapping[int, PackRecord]) -> None:
        for record in records.values():
            try:
                size = self._packs.open(record.id).size
            except (ChunkMissing, DataCorrupt):
                continue
            if size != record.size:
                what = f"pack {record.id} has {size} bytes, {record.size} are expected"
                self._found.problems.append(Problem("pack", what))

    def _locations(self, last: int) -> Iterator[tuple[ObjectId, Location]]:
        for first in range(1, last + 1, _BATCH):
            numbers = [ObjectId(n) for n in range(first, min(first + _BATCH, last + 1))]
            try:
                with self._catalog.view() as view:
                    batch = view.locations(numbers)
            except CatalogDamaged:
                batch = self._sound_ones(numbers)
            yield from batch.items()

    def _sound_ones(self, numbers: list[ObjectId]) -> dict[ObjectId, Location]:
        sound = {}
        for number in numbers:
            try:
                with self._catalog.view() as view:
                    location = view.location(number)
            except CatalogDamaged as exc:
                problem = Problem("catalog", f"object {number}: {exc}")
                self._found.problems.append(problem)
                self._found.bad[number] = problem
                continue
            if location is not None:
                sound[number] = location
        return sound

    def _compare(self, record: PackRecord | None, location: Location) -> Problem | None:
        if record is None:
            what = f"the catalog does not know pack number {location.pack}, but objects in it"
            return self._share("unknown", location.pack, Problem("catalog", what))
        frames = self._frames(record.id)
        if isinstance(frames, Problem):
            return frames
        offset = location.frame.offset
        if frames.get(offset) != location.frame:
            what = f"pack {record.id} does not hold what the catalog says it does"
            return self._share("differs", location.pack, Problem("catalog", what))
        return self._bad_frames.get(record.id, {}).get(offset)

    def _share(self, why: str, pack: int, problem: Problem) -> Problem:
        """One problem for all objects of a pack that have it."""
        known = self._shared.setdefault((why, pack), problem)
        if known is problem:
            self._found.problems.append(problem)
        return known

    def _frames(self, pack: PackId) -> dict[int, Frame] | Problem:
        """The frames of a pack by their offset, or why there are none."""
        if pack in self._lost:
            return self._lost[pack]
        known = self._trailers.get(pack)
        if known is None:
            try:
                known = {frame.offset: frame for frame in self._packs.frames(pack)[0]}
            except (ChunkMissing, DataCorrupt) as exc:
                problem = self._lost[pack] = Problem("pack", str(exc), type(exc))
                self._found.problems.append(problem)
                return problem
            self._trailers[pack] = known
            while len(self._trailers) > _TRAILERS:
                self._trailers.popitem(last=False)
        self._trailers.move_to_end(pack)
        return known
