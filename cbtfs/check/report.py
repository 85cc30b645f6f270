"""The report of a check: problems, and the disks that they affect."""

from dataclasses import dataclass, field
from typing import Final, Literal

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PackId, PointId
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt
from cbtfs.store.quarantine import CorruptFrame

ProblemKind = Literal[
    "directory",
    "pack",
    "trailer",
    "chunk",
    "node",
    "catalog",
    "map",
    "manifest",
    "state",
    "index",
]
_REPAIRED: Final = ("catalog", "map", "node")
"""Kinds of problems that a rebuild of the catalog may fix without a new capture."""
_FRAMES: Final = ("chunk", "node")


@dataclass(frozen=True, slots=True)
class AffectedDisk:
    """Extents of one disk at one point that a problem affects."""

    point: PointId
    vm: str
    disk: str
    extents: tuple[Extent, ...]
    name: str = field(default="", compare=False)
    """Name of the point in the mount: its time."""


@dataclass(slots=True, eq=False)
class Problem:
    """One problem, and every disk that it affects."""

    kind: ProblemKind
    what: str
    error: type[CbtfsError] = DataCorrupt
    """ChunkMissing if data is missing, DataCorrupt if it is corrupt."""
    places: list[AffectedDisk] = field(default_factory=list)


@dataclass(slots=True)
class CheckReport:
    """The result of a check."""

    points: int = 0
    objects: int = 0
    """Number of objects in the catalog, each compared with its pack."""
    chunks_read: int = 0
    bytes_read: int = 0
    """Bytes of the frames that were loaded and verified."""
    problems: list[Problem] = field(default_factory=list)
    corrupt: list[CorruptFrame] = field(default_factory=list)
    """Corrupt frames, for the quarantine."""
    verified: dict[PointId, str | None] = field(default_factory=dict)
    """Moment of the last verification of all data of each point: RFC 3339, UTC."""
    names: dict[PointId, str] = field(default_factory=dict)
    """VM@TIME of each point, sorted by VM and order of capture, like `verified`."""
    are_maps_known: bool = True
    """Whether block maps were verified, so that problems list all points that they affect."""
    intact_packs: dict[PackId, bytes] = field(default_factory=dict)
    """Identity of each encrypted pack all of whose chunks were read and are intact."""
    unverified: set[PackId] = field(default_factory=set)
    """Packs of capture keys whose chunks no reader has verified yet."""
    unrecorded: str | None = None
    """Why the results could not be recorded; None if they were."""

    @property
    def whole_points(self) -> list[PointId]:
        """Points that no problem affects; empty if block maps could not be verified."""
        if not self.are_maps_known:
            return []
        affected = {place.point for problem in self.problems for place in problem.places}
        return [point for point in self.verified if point not in affected]

    @property
    def harmful(self) -> list[Problem]:
        """Problems without corrupt frames that are in quarantine and that no point references.

        They have an intact copy elsewhere or belong to no point. Prune removes them with their
        packs.
        """
        if self.unrecorded is not None:
            return self.problems
        return [p for p in self.problems if p.places or p.kind not in _FRAMES]

    def raise_worst(self) -> None:
        """Raise DataCorrupt or else ChunkMissing if the report has a harmful problem."""
        harmful = self.harmful
        for error in (DataCorrupt, ChunkMissing):
            if any(problem.error is error for problem in harmful):
                count = len(harmful)
                repair = any(problem.kind in _REPAIRED for problem in harmful)
                if all(problem.kind == "index" for problem in harmful):
                    raise error(
                        f"{count} damaged indexes of files: run the commands that they name"
                    )
                first = "run 'cbtfs repair', then check again; if that does not help, "
                raise error(
                    f"{count} problem{'s' * (count > 1)} found: {first * repair}restore the named "
                    "files from intact copies, or capture the affected disks in full"
                )
