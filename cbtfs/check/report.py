"""What a check found."""

from dataclasses import dataclass, field
from typing import Final, Literal

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt
from cbtfs.store.quarantine import BadPlace

ProblemKind = Literal[
    "directory", "pack", "trailer", "chunk", "node", "catalog", "map", "manifest", "state"
]
_REPAIRED: Final = ("catalog", "map", "node")
"""Kinds of problems that a rebuild of the catalog may end without a new capture."""
_FRAMES: Final = ("chunk", "node")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a problem shows: extents of one disk at one point."""

    point: PointId
    vm: str
    disk: str
    extents: tuple[Extent, ...]
    name: str = field(default="", compare=False)
    """The point's name in the mount: its time."""


@dataclass(slots=True, eq=False)
class Problem:
    """One thing that is not as it should be, and every disk that it touches."""

    kind: ProblemKind
    what: str
    error: type[CbtfsError] = DataCorrupt
    """ChunkMissing if something is not there, DataCorrupt if it is there and wrong."""
    places: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The outcome of a check."""

    points: int = 0
    objects: int = 0
    """Objects that the catalog knows, each compared with its pack."""
    chunks_read: int = 0
    bytes_read: int = 0
    """Bytes of frames that were loaded and verified."""
    problems: list[Problem] = field(default_factory=list)
    bad: list[BadPlace] = field(default_factory=list)
    """Frames that are not what they should be."""
    verified: dict[PointId, str | None] = field(default_factory=dict)
    """For each point when all its data was last read and found right: RFC 3339, UTC."""
    names: dict[PointId, str] = field(default_factory=dict)
    """VM@TIME of each point, as commands take it; sorted by VM and time, as *verified* is."""
    are_maps_known: bool = True
    """Whether block maps were looked at, so that problems name all points that they touch."""
    unrecorded: str | None = None
    """Why what was found could not be written down, if it could not."""

    @property
    def whole_points(self) -> list[PointId]:
        """Points that no problem touches; none where block maps could not be looked at."""
        if not self.are_maps_known:
            return []
        hurt = {place.point for problem in self.problems for place in problem.places}
        return [point for point in self.verified if point not in hurt]

    @property
    def harmful(self) -> list[Problem]:
        """Problems but for bad frames that nothing needs and nothing will be built upon.

        A good copy has taken their place, or no point shows them; they are in quarantine, and
        go with their packs.
        """
        if self.unrecorded is not None:
            return self.problems
        return [each for each in self.problems if each.places or each.kind not in _FRAMES]

    def verdict(self) -> None:
        """Raise the gravest kind of error that was found, if any was that matters."""
        harmful = self.harmful
        for error in (DataCorrupt, ChunkMissing):
            if any(problem.error is error for problem in harmful):
                count = len(harmful)
                repair = any(problem.kind in _REPAIRED for problem in harmful)
                first = "run 'cbtfs repair', then check again; if that does not help, "
                raise error(
                    f"{count} problem{'s' * (count > 1)} found: {first * repair}put back good "
                    "copies of what is named, or capture the disks that it hurts in full"
                )
