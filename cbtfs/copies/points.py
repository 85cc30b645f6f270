"""Copies restore points to another repository, each whole or not at all.

A point keeps its id, so a copy that was interrupted continues, and a second copy does nothing. The
writer of the target holds its lock throughout; the source is only read, under leases.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from cbtfs.copies.objects import ObjectCopier, is_same
from cbtfs.core.ids import NULL_DIGEST, Digest, DiskId, PointId, VmId
from cbtfs.core.manifest import DiskRecord, Manifest, PointState, decode_manifest, encode_state
from cbtfs.core.names import printable, unique_name
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import (
    CbtfsError,
    ChunkMissing,
    DataCorrupt,
    ManifestsMissing,
    PointNotFound,
    UsageError,
)
from cbtfs.listing import Point
from cbtfs.store.catalog.records import PointRecord
from cbtfs.store.catalog.update import Update
from cbtfs.store.file_indexes import copy_index
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

_BATCH_POINTS: Final = 64
_BATCH_BYTES: Final = 64 << 20
"""Points and bytes that are committed together: each commit closes and flushes a pack."""

Progress = Callable[[int], None]
OnPoint = Callable[["CopiedPoint"], None]


class CopyStatus(StrEnum):
    """Result of the copy of one point."""

    COPIED = "copied"
    PRESENT = "present"
    """The target had it."""
    FORGOTTEN = "forgotten"
    """It was forgotten in the target, and stays so."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CopiedPoint:
    """Result for one point."""

    point: Point
    status: CopyStatus
    error: CbtfsError | None = None


@dataclass(frozen=True, slots=True)
class CopyResult:
    """Result of a copy; of a dry run, the points that would be copied."""

    points: tuple[CopiedPoint, ...]
    chunks: int
    """Chunks that were moved."""
    stored_bytes: int
    """Bytes of the frames that were written."""
    suspects: tuple[PointId, ...] = ()
    """Points that were present and became suspect, as they are in the source."""

    @property
    def failed(self) -> list[tuple[str, CbtfsError]]:
        """Names of the points that were not copied, and the error of each."""
        return [(c.point.spelled, c.error) for c in self.points if c.error is not None]

    def count(self, status: CopyStatus) -> int:
        return sum(copied.status is status for copied in self.points)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A point whose objects are put; it is committed after the next flush."""

    point: Point
    manifest: Manifest
    data: bytes
    state: PointState


def copy_points(
    source: Repository,
    target: Repository,
    points: Sequence[Point],
    *,
    is_dry_run: bool = False,
    progress: Progress = lambda _: None,
    on_point: OnPoint = lambda _: None,
) -> CopyResult:
    """Copy *points* of *source* to *target*, which is open for writing.

    Points of a VM should come in order of capture, so that an interruption leaves the older ones.
    A point that cannot be read is reported, and the others are copied.

    Raises:
        StoreFailed: the target refused a write; committed points stay.
    """
    copier = _Copier(source, target, on_point)
    plan = [copier.examine(point) for point in points]
    if is_dry_run:
        return CopyResult(tuple(plan), 0, 0)
    wanted = sum(planned.status is CopyStatus.COPIED for planned in plan)
    with _objects(target, wanted) as objects, ObjectCopier(source, objects) as moved:
        for number, planned in enumerate(plan):
            if planned.status is CopyStatus.COPIED:
                copier.copy(planned.point, objects, moved, progress)
            else:
                copier.report(planned)
            if number % _BATCH_POINTS == _BATCH_POINTS - 1:
                moved.refresh()
        copier.commit(objects)
        suspects = copier.carry_suspicions()
        results = tuple(copier.results)
        return CopyResult(results, moved.chunks, moved.stored_bytes, tuple(suspects))


@contextmanager
def _objects(target: Repository, commits: int) -> Iterator[ObjectWriter]:
    objects = target.object_writer(commits=commits)
    try:
        yield objects
    finally:
        objects.close()


class _Copier:
    def __init__(self, source: Repository, target: Repository, on_point: OnPoint) -> None:
        self._source = source
        self._target = target
        self._on_point = on_point
        self._present = target.points.ids()
        self._forgotten = target.points.forgotten_ids()
        self._ready: list[_Ready] = []
        self._bytes_at_commit = 0
        self.results: list[CopiedPoint] = []
        with target.catalog.view() as view:
            vms = view.vms().values()
        self._directories = {vm.id: vm.directory for vm in vms}

    def report(self, result: CopiedPoint) -> None:
        self.results.append(result)
        self._on_point(result)

    def examine(self, point: Point) -> CopiedPoint:
        """Return what is to be done with *point*; carries suspicions to a point that is there."""
        manifest = point.manifest
        if point.is_missing:
            error = ManifestsMissing("points/ of the source lacks its manifest")
            return CopiedPoint(point, CopyStatus.FAILED, error)
        if manifest.point in self._present:
            return self._compare(point)
        if manifest.point in self._forgotten:
            return CopiedPoint(point, CopyStatus.FORGOTTEN)
        return CopiedPoint(point, CopyStatus.COPIED)

    def _compare(self, point: Point) -> CopiedPoint:
        """Compare *point* with the target's by its disks."""
        try:
            theirs = self._target.points.read_manifest(point.manifest.point)
        except (DataCorrupt, PointNotFound) as exc:
            return CopiedPoint(point, CopyStatus.FAILED, exc)
        disks = {disk.id: disk for disk in theirs.disks}
        if disks.keys() != {disk.id for disk in point.manifest.disks} or not all(
            self._is_same(disk, disks[disk.id]) for disk in point.manifest.disks
        ):
            error = DataCorrupt("the target has another point with its id")
            return CopiedPoint(point, CopyStatus.FAILED, error)
        return CopiedPoint(point, CopyStatus.PRESENT)

    def _is_same(self, ours: DiskRecord, theirs: DiskRecord) -> bool:
        """Return whether two disks can have equal content; roots with other keys tell nothing."""
        if self._source.digester.key == self._target.digester.key:
            return is_same(ours, theirs)
        return (ours.size, ours.root == NULL_DIGEST) == (theirs.size, theirs.root == NULL_DIGEST)

    def copy(
        self, point: Point, objects: ObjectWriter, moved: ObjectCopier, progress: Progress
    ) -> None:
        """Copy the objects of a point, and commit it with others."""
        try:
            with self._source.points.leased(point.manifest.point):
                ready = self._prepare(point)
                roots = []
                for disk in ready.manifest.disks:
                    try:
                        roots.append(moved.copy(disk, progress))
                    except (ChunkMissing, DataCorrupt) as exc:
                        raise type(exc)(f"disk {printable(disk.label)}: {exc}") from exc
                ready = _with_roots(ready, roots)
        except (ChunkMissing, DataCorrupt, PointNotFound, UsageError) as exc:
            self.report(CopiedPoint(point, CopyStatus.FAILED, exc))
            return
        self._ready.append(ready)
        is_large = moved.stored_bytes - self._bytes_at_commit >= _BATCH_BYTES
        if is_large or len(self._ready) >= _BATCH_POINTS:
            self.commit(objects)
            self._bytes_at_commit = moved.stored_bytes

    def _prepare(self, point: Point) -> _Ready:
        """Return the manifest and the state that the target gets."""
        data = self._source.points.load_manifest(point.manifest.point)
        manifest = decode_manifest(data)
        self._refuse_conflict(manifest)
        vm = manifest.vm
        directory = self._directories.get(vm.id)
        if directory is None:
            taken = {*self._directories.values()}
            directory = unique_name(vm.directory, taken, vm.id)
            self._directories[vm.id] = directory
        if directory != vm.directory:
            data = _in_directory(data, directory)
            manifest = decode_manifest(data)
        state = self._source.points.load_state(manifest.point)[0]
        # Only a verification of the target's own packs says that they are intact.
        return _Ready(point, manifest, data, replace(state, verified=None))

    def _refuse_conflict(self, manifest: Manifest) -> None:
        """Raise UsageError if the VM has another point with this name or order in the target."""
        with self._target.catalog.view() as view:
            known = [(e.order, e.name, e.point) for e in view.entries_of(manifest.vm.id)]
        known += [
            (ready.manifest.order, ready.manifest.name, ready.manifest.point)
            for ready in self._ready
            if ready.manifest.vm.id == manifest.vm.id
        ]
        for order, name, point in known:
            is_equal = order == manifest.order or name == manifest.name
            if is_equal and point != manifest.point and not self._has(manifest.vm.id, point):
                raise UsageError(
                    f"point {point} of the target has its order number or name, because the VM "
                    "was captured into both repositories; forget one of the two points"
                )

    def _has(self, vm: VmId, point: PointId) -> bool:
        """Return whether the source has *point*: captures at once may share an order or a name."""
        with self._source.catalog.view() as view:
            return any(entry.point == point for entry in view.entries_of(vm))

    def commit(self, objects: ObjectWriter) -> None:
        """Commit the points whose objects are put, oldest first."""
        if not self._ready:
            return
        ready, self._ready = self._ready, []
        objects.flush()
        self._adopt_distrust({disk.id for copy in ready for disk in copy.manifest.disks})
        for copy in ready:
            self._target.put_point(copy.manifest, copy.data, copy.state)
        self._target.catalog.update(lambda update: _enter(update, self._target, ready))
        for copy in ready:
            copy_index(self._source.path, self._target.path, copy.manifest.point)
            self.report(CopiedPoint(copy.point, CopyStatus.COPIED))

    def _adopt_distrust(self, disks: Collection[DiskId]) -> None:
        """Copy the records that change lists of *disks* lack changes, before their points."""
        for disk in sorted(disks):
            record = self._source.distrust.load(disk)
            if record is not None:
                self._target.distrust.adopt(record)

    def carry_suspicions(self) -> list[PointId]:
        """Mark points of the target as suspect that became suspect in the source; return them."""
        changed = []
        for copied in self.results:
            if copied.status is not CopyStatus.PRESENT:
                continue
            manifest = copied.point.manifest
            mine = self._target.points.load_state(manifest.point)[0]
            state = self._source.points.load_state(manifest.point)[0]
            new = mine
            for disk in manifest.disks:
                reason = state.suspects(disk.id)
                if reason is not None:
                    new = new.suspecting(disk.id, reason)
            if new != mine:
                changed.append(new)
        self._target.put_states(changed)
        self._adopt_distrust({d.id for c in self.results for d in c.point.manifest.disks})
        return [state.point for state in changed]


def _with_roots(ready: _Ready, roots: Sequence[Digest]) -> _Ready:
    """Return a point whose disks have the roots of the target; all other members stay."""
    if [disk.root for disk in ready.manifest.disks] == list(roots):
        return ready
    document = unseal(ready.data)
    disks = zip(document["disks"], roots, strict=True)
    document["disks"] = [{**disk, "root": root.hex()} for disk, root in disks]
    data = seal(document)
    return replace(ready, data=data, manifest=decode_manifest(data))


def _in_directory(data: bytes, directory: str) -> bytes:
    """Return a manifest whose VM has another directory; all other members stay."""
    document = unseal(data)
    document["vm"] = {**document["vm"], "directory": directory}
    return seal(document)


def _enter(update: Update, target: Repository, ready: Sequence[_Ready]) -> None:
    """Enter committed points in the catalog.

    The source may have later points of these VMs. So lists that are relative to the last committed
    point are not trusted until a point is captured.
    """
    for copy in ready:
        _, stamp = target.points.load_state(copy.manifest.point)
        update.put_point(copy.manifest, PointRecord(copy.data, encode_state(copy.state), stamp))
    for vm in {copy.manifest.vm.id for copy in ready}:
        order, _ = next(update.points_of(vm, newest_first=True))
        update.set_unproven(vm, order)
    found = update.missing & {copy.manifest.point for copy in ready}
    if found:
        update.set_missing(update.missing - found)
