"""Removal of restore points by retention policy or by name; protection and tags."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cbtfs.core.ids import PointId, is_id
from cbtfs.core.manifest import PointState
from cbtfs.core.moment import parse_moment
from cbtfs.core.names import printable
from cbtfs.core.pin import Pin
from cbtfs.core.pointname import ClockContext
from cbtfs.core.retention import Candidate, Decision, Policy, decide
from cbtfs.errors import CbtfsError, ManifestsMissing, PointNotFound, UsageError
from cbtfs.listing import (
    Point,
    find_exact_point,
    find_point,
    find_vm,
    labelled,
    points,
    vm_names,
)
from cbtfs.store.missing import missing_points, name_points, refuse_missing
from cbtfs.store.pins import load_pins, pins_by_point, refuse_pinned
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class PointDecision:
    """A point with the decision of a policy."""

    point: Point
    decision: Decision


def decide_points(
    repository: Repository, vms: Sequence[str], policy: Policy, now: datetime
) -> list[PointDecision]:
    """Return the decisions of *policy* on the points of *vms* or of all VMs, newest first.

    Raises:
        PointNotFound: a name in *vms* means no VM.
        ManifestsMissing: a manifest is missing, which would make a policy count wrongly.
        DataCorrupt: a pin is damaged.
    """
    refuse_missing(repository)
    pins = pins_by_point(load_pins(repository.path))
    with repository.catalog.view() as view:
        names = vm_names(view)
        named = [find_vm(view, name) for name in vms] or list(view.vms().values())
        by_vm = {vm.id: [labelled(point, names) for point in points(view, vm.id)] for vm in named}
    by_id = {point.manifest.point: point for of_vm in by_vm.values() for point in of_vm}
    return [
        PointDecision(by_id[decision.point], decision)
        for of_vm in by_vm.values()
        for decision in decide(policy, [_candidate(point, pins) for point in of_vm], now)
    ]


def _candidate(point: Point, pins: Mapping[PointId, Sequence[Pin]]) -> Candidate:
    manifest = point.manifest
    return Candidate(
        manifest.point,
        parse_moment(manifest.time),
        manifest.order,
        point.state.tags,
        point.state.is_protected,
        point.is_damaged,
        tuple(printable(pin.name) for pin in pins.get(manifest.point, ())),
    )


@dataclass(frozen=True, slots=True)
class NamedPoint:
    """A point to forget; *point* is None if its manifest cannot be read."""

    id: PointId
    point: Point | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A point with its new state."""

    point: Point
    state: PointState


def is_vm(repository: Repository, name: str) -> bool:
    """Return whether *name* means a VM, whose points only a policy forgets."""
    with repository.catalog.view() as view:
        named = vm_names(view).find(name)
    return named is not None and named.vm.id != name


def to_forget(repository: Repository, specs: Iterable[str]) -> list[NamedPoint]:
    """Return the points that *specs* name exactly, once each.

    A point whose manifest cannot be read is in no listing, so only its complete id names it.

    Raises:
        UsageError: the meaning of a name depends on the clock or on other points.
        CbtfsError: a point is protected.
        PointPinned: an overlay needs a point.
        ManifestsMissing: the manifest of a named point is missing.
    """
    chosen = dict[PointId, NamedPoint]()
    for spec in specs:
        try:
            point = find_exact_point(repository, spec)
        except PointNotFound:
            if not is_id(spec) or spec not in repository.points.ids():
                raise
            chosen[PointId(spec)] = NamedPoint(PointId(spec), None)
            continue
        _refuse_protected(point)
        chosen[point.manifest.point] = NamedPoint(point.manifest.point, point)
    refuse_pinned(load_pins(repository.path), chosen)
    missing = missing_points(repository) & chosen.keys()
    if missing:
        raise ManifestsMissing(
            f"points/ lacks the manifests of {name_points(repository, missing)}: restore them "
            "from a copy of points/, or run 'cbtfs repair --restore-manifests'"
        )
    return list(chosen.values())


def _refuse_protected(point: Point) -> None:
    if point.state.is_protected:
        raise CbtfsError(
            f"point {point.manifest.point} is protected: "
            f"run 'cbtfs protect --off {point.manifest.point[:12]}' first"
        )


def to_give_up(repository: Repository, ids: Iterable[str]) -> list[PointId]:
    """Return the missing points that *ids* name, once each.

    UsageError if one is not the complete id of a missing point, CbtfsError if it is protected or an
    overlay needs it.
    """
    missing = missing_points(repository)
    chosen = dict[PointId, None]()
    for name in ids:
        point = PointId(name)
        if point not in missing:
            raise UsageError(
                f"{printable(name)} is not the complete id of a point whose manifest is missing: "
                "'cbtfs check' lists these points"
            )
        _refuse_protected(find_point(repository, name))
        chosen[point] = None
    refuse_pinned(load_pins(repository.path), chosen)
    return list(chosen)


def protect(
    repository: Repository, spec: str, clock: ClockContext, *, is_protected: bool
) -> Changed:
    """Protect a point from being forgotten, or remove the protection."""
    return _change(repository, spec, clock, lambda state: replace(state, is_protected=is_protected))


def tag(
    repository: Repository,
    spec: str,
    clock: ClockContext,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
) -> Changed:
    """Add tags to a point, and remove others."""

    def change(state: PointState) -> PointState:
        tags = dict.fromkeys((*state.tags, *add))
        return replace(state, tags=tuple(tag for tag in tags if tag not in remove))

    return _change(repository, spec, clock, change)


def _change(
    repository: Repository,
    spec: str,
    clock: ClockContext,
    change: Callable[[PointState], PointState],
) -> Changed:
    point = find_point(repository, spec, clock)
    state = change(point.state)
    repository.put_states([state])
    return Changed(point, state)
