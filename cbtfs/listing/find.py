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
    Good,
    Here,
    IdPrefix,
    Latest,
    Request,
    Spelled,
    Until,
    parse_request,
)
from cbtfs.core.vmname import Bearer, VmNames, names_of
from cbtfs.errors import PointNotFound, UsageError
from cbtfs.listing.point import Point, decode, labelled
from cbtfs.listing.vm import alike, is_pattern, no_vm, suggestion
from cbtfs.listing.zone import here_and_now
from cbtfs.store.catalog.naming import bearer, vm_names
from cbtfs.store.catalog.records import PointEntry
from cbtfs.store.catalog.view import View
from cbtfs.store.repository import Repository

_HEX: Final = re.compile(r"[0-9a-f]{1,32}\Z", re.ASCII)
_MAX_CANDIDATES: Final = 8
"""Ids that an error names of an ambiguous one."""


def find_point(repository: Repository, spec: str, here: Here | None = None) -> Point:
    """Return the point that *spec* means: VM, VM@NAME, VM@TIME, VM@latest …, or an id prefix.

    The grammar is in docs/commands.md. PointNotFound if it means none or several: the error names
    the nearest or the candidates. *here* is this machine's time and zone by default.
    """
    with repository.catalog.view() as view:
        return _Finder(view, here or here_and_now()).find(spec)


def find_exact_point(repository: Repository, spec: str) -> Point:
    """Return the point that *spec* names and goes on to name for as long as it is there.

    UsageError if that depends on the clock or on which other points there are.
    """
    with repository.catalog.view() as view:
        return _Finder(view, here_and_now(), is_exact=True).find(spec)


def find_points(repository: Repository, spec: str, here: Here | None = None) -> list[Point]:
    """Return the point that *spec* means or, if its VM is a pattern, one point of each match.

    VMs that have no such point are left out; PointNotFound if that leaves none.
    """
    with repository.catalog.view() as view:
        return _Finder(view, here or here_and_now()).find_all(spec)


@dataclass(frozen=True, slots=True)
class _OfVm:
    """A VM and its points."""

    bearer: Bearer
    label: str
    entries: Sequence[PointEntry]

    @property
    def dated(self) -> list[Dated]:
        return [Dated(e.point, e.order, e.time, e.is_clocked) for e in self.entries]

    def spelled(self, point: Dated) -> str:
        name = next(e.name for e in self.entries if e.point == point.point)
        return printable(f"{self.label}@{name}")


class _Finder:
    """Finds points in one view of the catalog."""

    def __init__(
        self, view: View, here: Here, names: VmNames | None = None, *, is_exact: bool = False
    ) -> None:
        self._view = view
        self._here = here
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
            found = self._view.point_ids(spec)
            if found:
                return self._load(self._only(found, spec))
        if whole is not None:
            return self._latest_of(whole, spec)
        if at:
            raise no_vm(self._names, name)
        near = alike(spec, [*self._names.labels.values(), *self._names.former])
        raise PointNotFound(f"no point or VM {printable(spec)!r}{suggestion(near)}", near)

    def of_vm(self, vm: VmId, which: str) -> Point:
        """The point of the VM with that id that *which* means."""
        found = self._names.find_id(vm)
        if found is None:
            raise PointNotFound(f"VM {vm} is gone")
        return self._of_vm(found, which, f"{self._names.labels[vm]}@{which}")

    def find_all(self, spec: str) -> list[Point]:
        try:
            return [self.find(spec)]
        except PointNotFound as exc:
            name, at, which = spec.rpartition("@")
            pattern = name if at else spec
            if not is_pattern(pattern) or self._names.find(pattern) is not None:
                raise
            none = exc
        found = []
        for vm in self._names.matching(pattern):
            try:
                found.append(self._of_vm(vm, which if at else "latest", spec))
            except PointNotFound as exc:
                none = exc
        if not found:
            raise none
        return found

    def _latest_of(self, vm: Bearer, spec: str) -> Point:
        if self._is_exact:
            raise UsageError(
                f"{printable(spec)} is a VM, not a point: name a point by its exact time or id"
            )
        return self._of_vm(vm, "latest", spec)

    def _of_vm(self, vm: Bearer, which: str, spec: str, whole: Bearer | None = None) -> Point:
        """A point of *vm*; the latest of *whole*, a VM called *spec*, if *which* is no form."""
        of = self._points_of(vm)
        exact = [entry.point for entry in of.entries if entry.name == which]
        if exact:
            return self._load(self._only(exact, spec))
        try:
            request = parse_request(which, self._here)
        except ValueError as exc:
            if whole is not None:
                return self._latest_of(whole, spec)
            raise PointNotFound(f"no point {printable(spec)!r}: {printable(str(exc))}") from exc
        if isinstance(request, IdPrefix):
            ids = [each.point for each in of.entries if each.point.startswith(request.digits)]
            return self._load(self._only(ids, spec))
        found = self._chosen(of, request)
        if self._is_exact:
            return self._load(self._exactly(of, request, found, spec))
        if found is None:
            raise self._none(of, request, spec)
        return self._load(found.point)

    def _points_of(self, vm: Bearer) -> _OfVm:
        label = self._names.labels[vm.vm.id]
        return _OfVm(vm, label, list(self._view.entries_of(vm.vm.id)))

    def _chosen(self, of: _OfVm, request: Request) -> Dated | None:
        if isinstance(request, Latest):
            return before_latest(of.dated, request.back)
        if isinstance(request, Good):
            return latest_good(of.dated, self._is_good)
        if isinstance(request, Until):
            return newest_until(of.dated, request.last)
        return None

    def _is_good(self, point: Dated) -> bool:
        return not {"damaged", "suspect"} & set(self._load(point.point).marks)

    def _exactly(self, of: _OfVm, request: Request, found: Dated | None, spec: str) -> PointId:
        """The one point of the whole time that was written; else an error that names a point."""
        if isinstance(request, Until) and request.exact is not None:
            same = [point.point for point in of.dated if point.time == request.exact]
            if same:
                return self._only(same, spec)
        elif not isinstance(request, Spelled):
            means = [] if found is None else [of.spelled(found)]
            now = f" (now it means {means[0]})" if means else ""
            raise UsageError(
                f"{printable(spec)} is not the exact name of a point{now}: "
                "name it by its exact time or id",
                means,
            )
        raise self._none(of, request, spec)

    def _only(self, found: Sequence[PointId], spec: str) -> PointId:
        if len(found) == 1:
            return found[0]
        if not found:
            raise PointNotFound(f"no point {printable(spec)!r}: 'cbtfs list' shows what there is")
        shown = ", ".join(found[:_MAX_CANDIDATES])
        shown += " …" if len(found) > _MAX_CANDIDATES else ""
        raise PointNotFound(f"point {printable(spec)!r} is ambiguous: name one of {shown}", found)

    def _none(self, of: _OfVm, request: Request, spec: str) -> PointNotFound:
        """The error for a request that no point of the VM meets; it names the nearest."""
        shown = printable(spec)
        if isinstance(request, Good):
            return PointNotFound(f"no point {shown!r}: every point of it is damaged or suspect")
        moment = _moment(request)
        points = of.dated
        if moment is None:
            close = min(points, key=lambda point: point.age, default=None)
            why = f"VM {printable(of.label)} has {len(points)} points"
        else:
            close = nearest(points, moment)
            why = f"VM {printable(of.label)} has none at that time"
            if isinstance(request, Until):
                why = f"VM {printable(of.label)} has none up to {format_moment(request.last)}"
        near = [] if close is None else [of.spelled(close)]
        hint = f"; the nearest is {near[0]}" if near else ""
        return PointNotFound(f"no point {shown!r}: {why}{hint}{self._of_earlier(of, moment)}", near)

    def _of_earlier(self, of: _OfVm, moment: datetime | None) -> str:
        """What to say of a VM that had the name before and has a point at that time."""
        name = of.bearer.vm.name
        if moment is None:
            return ""
        for earlier in self._names.earlier(name, of.bearer.vm.id):
            other = self._points_of(earlier)
            found = newest_until(other.dated, moment)
            if found is not None:
                return (
                    f"; VM {printable(other.label)}, which had the name {printable(name)!r} "
                    f"before, has {other.spelled(found)}"
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
    return request.moment if isinstance(request, Spelled) else None


def find_disk(point: Point, label: str) -> DiskRecord:
    """Return the disk of that label or id; PointNotFound suggests those that are like it."""
    disk = point.manifest.disk(label)
    if disk is None:
        labels = [each.label for each in point.manifest.disks]
        near = alike(label, labels)
        hint = suggestion(near) if near else ""
        raise PointNotFound(
            f"no disk {printable(label)!r} in point {printable(point.spelled)}{hint}"
            f"{' It' if near else ': it'} has {', '.join(map(printable, labels))}",
            near or labels,
        )
    return disk


def find_disks(point: Point, label: str) -> list[DiskRecord]:
    """Return the disk of that label or id or, if it is none, those that match it as a pattern."""
    matches = [disk for disk in point.manifest.disks if fnmatchcase(disk.label, label)]
    is_exact = point.manifest.disk(label) is not None
    return (
        [find_disk(point, label)] if is_exact or not is_pattern(label) or not matches else matches
    )


def requested(view: View, vm: VmId, which: str, here: Here | None = None) -> PointId | None:
    """Return the point of *vm* that *which*, the text behind `VM@`, means; None if it means none.

    *here* is this machine's time and zone by default.
    """
    known = view.vms().get(vm)
    if known is None:
        return None
    names = names_of([bearer(known, view.entries_of(vm))])  # of one VM: others cost as many reads
    try:
        return _Finder(view, here or here_and_now(), names).of_vm(vm, which).manifest.point
    except PointNotFound:
        return None
