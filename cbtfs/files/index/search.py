"""Searches in the indexes of many points, in which equal segments are searched once."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cbtfs.core.file_index import IndexedVolume, IndexHeader, Segment
from cbtfs.core.ids import PointId
from cbtfs.errors import DataCorrupt
from cbtfs.files.index.names import Match, matches, search_for
from cbtfs.store.file_indexes import FileIndexes

_Volumes = tuple[IndexedVolume, ...]
_WIDTHS: Final = (2, 8, 8, 8)
_CODES: Final = "HQQq"


class Version(NamedTuple):
    """A file with the same facts at one or several points."""

    path: str
    mode: int
    """Type and permissions as in stat()."""
    inode: int
    size: int
    modified: int
    """Nanoseconds since 1970."""


@dataclass(slots=True)
class Found:
    """The points at which a file has a version; numbers count the points of the search."""

    version: Version
    first: int
    last: int
    points: int
    engines: frozenset[str]
    """Names of the engines that read it."""


class OtherEngine(DataCorrupt):
    """Raised if an index is not by the engine that the user wants."""


@dataclass(slots=True)
class Searched:
    """The result of a search."""

    found: list[Found]
    """By path, then by first point."""
    unindexed: list[tuple[PointId, DataCorrupt]]
    """Points whose index is missing, damaged or of another engine, and the reasons."""
    incomplete: list[tuple[PointId, int]]
    """Points whose index leaves out directories or volumes, and their number."""


def search(
    indexes: FileIndexes,
    points: Sequence[PointId],
    pattern: str | None,
    engine: str | None = None,
) -> Searched:
    """Return the files of *points* whose names match a pattern of the shell.

    *points* are those of one VM, from the oldest. A damaged index is not trusted: its point is
    among those without an index. *engine*: search only indexes that this engine has made.
    """
    return _Search(indexes, pattern, engine).over(points)


class _Search:
    def __init__(self, indexes: FileIndexes, pattern: str | None, engine: str | None) -> None:
        self._indexes = indexes
        self._engine = engine
        self._search = search_for(pattern)
        self._matches: dict[str, Sequence[Match]] = {}
        self._versions: dict[tuple[str, str], Sequence[Version]] = {}

    def over(self, points: Sequence[PointId]) -> Searched:
        result = Searched([], [], [])
        at_points: dict[tuple[str, str], list[int]] = {}
        volumes: list[_Volumes] = []
        for number, point in enumerate(points):
            volumes.append(())
            try:
                layout = self._indexes.layout(point)
                self._require_engine(layout.header)
                keys = [
                    key
                    for segment, offset in zip(layout.header.segments, layout.offsets, strict=False)
                    if (key := self._key(point, segment, offset)) is not None
                ]
            except DataCorrupt as exc:
                result.unindexed.append((point, exc))
                continue
            volumes[number] = layout.header.volumes
            for key in keys:
                at_points.setdefault(key, []).append(number)
            if layout.header.left_out:
                result.incomplete.append((point, len(layout.header.left_out)))
        result.found = self._merged(at_points, volumes)
        return result

    def _require_engine(self, header: IndexHeader) -> None:
        """Raise OtherEngine unless the wanted engine has read all files of an index."""
        if self._engine is not None and set(header.engines) - {self._engine}:
            raise OtherEngine(
                f"its index is by the engine {', '.join(header.engines)}; run 'cbtfs files index "
                f"--engine {self._engine}' for this point"
            )

    def _key(self, point: PointId, segment: Segment, offset: int) -> tuple[str, str] | None:
        """Search a segment unless an equal one was searched; None if nothing matches."""
        names = self._matches.get(segment.names.digest)
        if names is None:
            names = matches(self._indexes.part(point, offset, segment.names), self._search)
            if names and names[-1].number >= segment.files:
                raise DataCorrupt(f"the index of point {point} has more names than files")
            self._matches[segment.names.digest] = names
        if not names:
            return None
        key = segment.names.digest, segment.facts.digest
        if key not in self._versions:
            facts = self._indexes.part(point, offset + segment.names.length, segment.facts)
            self._versions[key] = _versions(names, facts, segment.files)
        return key

    def _merged(
        self, at_points: dict[tuple[str, str], list[int]], volumes: Sequence[_Volumes]
    ) -> list[Found]:
        known: dict[Version, Found] = {}
        for key, numbers in at_points.items():
            first, last, count = numbers[0], numbers[-1], len(numbers)
            layouts = {volumes[number] for number in numbers}
            # Nearly always one engine has read all volumes: paths are not compared then.
            whole = frozenset(volume.engine for layout in layouts for volume in layout)
            for version in self._versions[key]:
                engines = whole if len(whole) < 2 else _engines_at(layouts, version.path)
                found = known.get(version)
                if found is None:
                    known[version] = Found(version, first, last, count, engines)
                else:
                    found.first, found.last = min(found.first, first), max(found.last, last)
                    found.points += count
                    found.engines |= engines
        return sorted(known.values(), key=lambda found: (found.version.path, found.first))


def _engines_at(layouts: Iterable[_Volumes], path: str) -> frozenset[str]:
    """Return the engines of the volumes that have a path."""
    engines = set()
    for layout in layouts:
        above = [v for v in layout if f"{path}/".startswith(f"{v.place.rstrip('/')}/")]
        engines |= {max(above, key=lambda volume: len(volume.place)).engine} if above else set()
    return frozenset(engines)


def _versions(names: Sequence[Match], facts: bytes, files: int) -> list[Version]:
    columns, at = [], 0
    for code, width in zip(_CODES, _WIDTHS, strict=True):
        unpack = struct.Struct(f"<{code}").unpack_from
        columns.append([unpack(facts, at + width * match.number)[0] for match in names])
        at += width * files
    return [
        Version(match.path, *values)
        for match, values in zip(names, zip(*columns, strict=True), strict=True)
    ]
