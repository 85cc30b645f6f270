"""The restore point that a user means by a name, an id or a time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final

from cbtfs.core.dated import Dated, before_latest, latest_good, nearest, newest_until
from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import DiskRecord
from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable
from cbtfs.core.pointname import (
    ClockContext,
    Good,
    IdPrefix,
    Latest,
    MountName,
    ProvenPoint,
    Request,
    Until,
    parse_request,
)
from cbtfs.core.vmname import NamedVm, VmNames, names_of
from cbtfs.errors import PointNotFound, UsageError
from cbtfs.listing.point import Point, decode, labelled
from cbtfs.listing.vm import alike, is_pattern, no_vm, suggestion
from cbtfs.listing.zone import current_clock
from cbtfs.store.catalog.naming import name_vm, vm_names
from cbtfs.store.catalog.records import PointEntry
from cbtfs.store.catalog.view import View
from cbtfs.store.repository import Repository

_HEX: Final = re.compile(r"[0-9a-f]{1,32}\Z", re.ASCII)
_MAX_CANDIDATES: Final = 8
"""Maximum number of ids in the error for an ambiguous id."""


def find_point(repository: Repository, spec: str, clock: ClockContext | None = None) -> Point:
    """Return the point that *spec* means: VM, VM@NAME, VM@TIME, VM@latest …, or an id prefix.

    The grammar is in docs/commands.md. *clock* defaults to this machine's time and zone.

    Raises:
        PointNotFound: no point, or several; the error names the nearest point or the candidates.
    """
    with repository.catalog.view() as view:
        return _PointFinder(view, clock or current_clock()).find(spec)


def find_exact_point(repository: Repository, spec: str) -> Point:
    """Return the point that *spec* means permanently.

    Raises:
        UsageError: the meaning of *spec* depends on the clock or on other points.
        PointNotFound: no point, or several.
    """
    with repository.catalog.view() as view:
        return _PointFinder(view, current_clock(), is_exact=True).find(spec)


def find_points(
    repository: Repository, spec: str, clock: ClockContext | None = None
) -> list[Point]:
    """Return the point that *spec* means or, if its VM is a pattern, one point of each match.

    VMs without such a point are left out; PointNotFound if no VM has one.
    """
    with repository.catalog.view() as view:
        return _PointFinder(view, clock or current_clock()).find_all(spec)


@dataclass(frozen=True, slots=True)
class _VmPoints:
    """A VM and its points."""

    named: NamedVm
    label: str
    entries: Sequence[PointEntry]

    @property
    def dated(self) -> list[Dated]:
        return [Dated(e.point, e.order, e.time, e.is_clocked) for e in self.entries]

    def spelled(self, point: Dated) -> str:
        name = next(e.name for e in self.entries if e.point == point.point)
        return printable(f"{self.label}@{name}")


class _PointFinder:
    """Finds points in one view of the catalog."""

    def __init__(
        self,
        view: View,
        clock: ClockContext,
        names: VmNames | None = None,
        *,
        is_exact: bool = False,
    ) -> None:
        self._view = view
        self._clock = clock
        self._is_exact = is_exact
        self._names = vm_names(view) if names is None else names

    def find(self, spec: str) -> Point:
        name, at, which = spec.rpartition("@")
        vm = self._names.find(name) if at else None
        whole = self._names.find(spec)
        if vm is not None:
            return self._of_vm(vm, which, spec, whole)
        if whole is not None and whole.vm.id != spec:
            return self._latest_of(whole, spec)
        if _HEX.match(spec):
            ids = self._view.point_ids(spec)
            if ids:
                return self._load(self._only(ids, spec))
        if whole is not None:
            return self._latest_of(whole, spec)
        if at:
            raise no_vm(self._names, name)
        near = alike(spec, [*self._names.labels.values(), *self._names.former])
        raise PointNotFound(f"no point or VM {printable(spec)!r}{suggestion(near)}", near)

    def of_vm(self, vm: VmId, which: str) -> Point:
        """Return the point that *which* means of the VM with this id."""
        named = self._names.find_id(vm)
        if named is None:
            raise PointNotFound(f"VM {vm} is gone")
        return self._of_vm(named, which, f"{self._names.labels[vm]}@{which}")

    def find_all(self, spec: str) -> list[Point]:
        try:
            return [self.find(spec)]
        except PointNotFound as exc:
            name, at, which = spec.rpartition("@")
            pattern = name if at else spec
            if not is_pattern(pattern) or self._names.find(pattern) is not None:
                raise
            none = exc
        points = []
        for vm in self._names.matching(pattern):
            try:
                points.append(self._of_vm(vm, which if at else "latest", spec))
            except PointNotFound as exc:
                none = exc
        if not points:
            raise none
        return points

    def _latest_of(self, vm: NamedVm, spec: str) -> Point:
        if self._is_exact:
            raise UsageError(
                f"{printable(spec)} is a VM, not a point: name a point by its exact time or id"
            )
        return self._of_vm(vm, "latest", spec)

    def _of_vm(self, vm: NamedVm, which: str, spec: str, whole: NamedVm | None = None) -> Point:
        """Return a point of *vm*; the latest of *whole*, VM *spec*, if *which* is malformed."""
        of = self._points_of(vm)
        exact = [entry.point for entry in of.entries if entry.name == which]
        if exact:
            return self._load(self._only(exact, spec))
        try:
            request = parse_request(which, self._clock)
        except ValueError as exc:
            if whole is not None:
                return self._latest_of(whole, spec)
            raise PointNotFound(f"no point {printable(spec)!r}: {printable(str(exc))}") from exc
        if isinstance(request, IdPrefix):
            ids = [entry.point for entry in of.entries if entry.point.startswith(request.digits)]
            return self._load(self._only(ids, spec))
        chosen = self._chosen(of, request)
        if self._is_exact:
            return self._load(self._exactly(of, request, chosen, spec))
        if chosen is None:
            raise self._none(of, request, spec)
        return self._load(chosen.point)

    def _points_of(self, vm: NamedVm) -> _VmPoints:
        label = self._names.labels[vm.vm.id]
        return _VmPoints(vm, label, list(self._view.entries_of(vm.vm.id)))

    def _chosen(self, of: _VmPoints, request: Request) -> Dated | None:
        if isinstance(request, Latest):
            return before_latest(of.dated, request.back)
        if isinstance(request, Good):
            return latest_good(of.dated, self._is_good)
        if isinstance(request, ProvenPoint):
            return latest_good(of.dated, self._is_proven)
        if isinstance(request, Until):
            return newest_until(of.dated, request.last)
        return None

    def _is_good(self, point: Dated) -> bool:
        return not {"damaged", "suspect"} & set(self._load(point.point).marks)

    def _is_proven(self, point: Dated) -> bool:
        found = self._load(point.point)
        proof = found.state.proof
        return proof is not None and proof.is_proven and "damaged" not in found.marks

    def _exactly(self, of: _VmPoints, request: Request, chosen: Dated | None, spec: str) -> PointId:
        """Return the only point with exactly the given time; else raise an error."""
        if isinstance(request, Until) and request.exact is not None:
            same = [point.point for point in of.dated if point.time == request.exact]
            if same:
                return self._only(same, spec)
        elif not isinstance(request, MountName):
            means = [] if chosen is None else [of.spelled(chosen)]
            now = f" (now it means {means[0]})" if means else ""
            raise UsageError(
                f"{printable(spec)} is not the exact name of a point{now}: "
                "use the exact time or the id of the point",
                means,
            )
        raise self._none(of, request, spec)

    def _only(self, ids: Sequence[PointId], spec: str) -> PointId:
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise PointNotFound(f"no point {printable(spec)!r}: 'cbtfs list' lists all points")
        shown = ", ".join(ids[:_MAX_CANDIDATES])
        shown += " …" if len(ids) > _MAX_CANDIDATES else ""
        raise PointNotFound(f"point {printable(spec)!r} is ambiguous: name one of {shown}", ids)

    def _none(self, of: _VmPoints, request: Request, spec: str) -> PointNotFound:
        """Return the error for a request without a point, which names the nearest point."""
        shown = printable(spec)
        if isinstance(request, Good):
            return PointNotFound(f"no point {shown!r}: every point of the VM is damaged or suspect")
        if isinstance(request, ProvenPoint):
            return PointNotFound(
                f"no point {shown!r}: no point of the VM is proven; run 'cbtfs prove "
                f"{printable(of.label)}'"
            )
        moment = _moment(request)
        points = of.dated
        if moment is None:
            close = min(points, key=lambda point: point.age, default=None)
            why = f"VM {printable(of.label)} has {len(points)} points"
        else:
            close = nearest(points, moment)
            why = f"VM {printable(of.label)} has no point at that time"
            if isinstance(request, Until):
                why = f"VM {printable(of.label)} has no point up to {format_moment(request.last)}"
        near = [] if close is None else [of.spelled(close)]
        hint = f"; the nearest is {near[0]}" if near else ""
        return PointNotFound(f"no point {shown!r}: {why}{hint}{self._of_earlier(of, moment)}", near)

    def _of_earlier(self, of: _VmPoints, moment: datetime | None) -> str:
        """Return a hint at a VM that had the name before and has a point at that time."""
        name = of.named.vm.name
        if moment is None:
            return ""
        for earlier in self._names.earlier(name, of.named.vm.id):
            other = self._points_of(earlier)
            point = newest_until(other.dated, moment)
            if point is not None:
                return (
                    f"; VM {printable(other.label)}, which had the name {printable(name)!r} "
                    f"before, has {other.spelled(point)}"
                )
        return ""

    def _load(self, point: PointId) -> Point:
        record = self._view.point(point)
        if record is None:
            raise PointNotFound(f"point {point} is gone")
        return labelled(decode(self._view, point, record), self._names)


def _moment(request: Request) -> datetime | None:
    if isinstance(request, Until):
        return request.last
    return request.moment if isinstance(request, MountName) else None


def find_disk(point: Point, label: str) -> DiskRecord:
    """Return the disk with this label or id; PointNotFound suggests similar labels."""
    disk = point.manifest.disk(label)
    if disk is None:
        labels = [disk.label for disk in point.manifest.disks]
        near = alike(label, labels)
        hint = suggestion(near) if near else ""
        raise PointNotFound(
            f"no disk {printable(label)!r} in point {printable(point.spelled)}{hint}"
            f"{' It' if near else ': it'} has {', '.join(map(printable, labels))}",
            near or labels,
        )
    return disk


def find_disks(point: Point, label: str) -> list[DiskRecord]:
    """Return the disk with this label or id or else the disks that match it as a pattern."""
    matches = [disk for disk in point.manifest.disks if fnmatchcase(disk.label, label)]
    is_exact = point.manifest.disk(label) is not None
    return (
        [find_disk(point, label)] if is_exact or not is_pattern(label) or not matches else matches
    )


def requested(
    view: View, vm: VmId, which: str, clock: ClockContext | None = None
) -> PointId | None:
    """Return the point of *vm* that *which*, the text after `VM@`, means, or None.

    *clock* defaults to this machine's time and zone.
    """
    known = view.vms().get(vm)
    if known is None:
        return None
    names = names_of([name_vm(known, view.entries_of(vm))])  # Only this VM, to save reads.
    try:
        return _PointFinder(view, clock or current_clock(), names).of_vm(vm, which).manifest.point
    except PointNotFound:
        return None
