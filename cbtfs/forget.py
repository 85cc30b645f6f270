"""Let restore points go, by rules or by name; protect and tag those that stay."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cbtfs.core.ids import PointId, is_id
from cbtfs.core.manifest import PointState
from cbtfs.core.moment import parse_moment
from cbtfs.core.names import printable
from cbtfs.core.pointname import Here
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
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class Verdict:
    """A point, and what the rules make of it."""

    point: Point
    decision: Decision


def judge(
    repository: Repository, vms: Sequence[str], policy: Policy, now: datetime
) -> list[Verdict]:
    """What *policy* says of every point of *vms*, or of all VMs, each VM's newest first.

    PointNotFound if there is no VM of a name, or more than one; ManifestsMissing if the manifest
    of any point is missing, as rules count points.
    """
    refuse_missing(repository)
    with repository.catalog.view() as view:
        names = vm_names(view)
        named = [find_vm(view, name) for name in vms] or list(view.vms().values())
        found = {vm.id: [labelled(point, names) for point in points(view, vm.id)] for vm in named}
    by_id = {point.manifest.point: point for mine in found.values() for point in mine}
    return [
        Verdict(by_id[decision.point], decision)
        for mine in found.values()
        for decision in decide(policy, map(_candidate, mine), now)
    ]


def _candidate(point: Point) -> Candidate:
    manifest = point.manifest
    return Candidate(
        manifest.point,
        parse_moment(manifest.time),
        manifest.order,
        point.state.tags,
        point.state.is_protected,
        point.is_damaged,
    )


@dataclass(frozen=True, slots=True)
class Named:
    """A point to forget; *point* is None if its manifest cannot be read."""

    id: PointId
    point: Point | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A point whose state was changed, and the new state."""

    point: Point
    state: PointState


def is_vm(repository: Repository, name: str) -> bool:
    """Whether a VM has that name: then it takes rules to forget points of it."""
    with repository.catalog.view() as view:
        found = vm_names(view).find(name)
    return found is not None and found.vm.id != name


def to_forget(repository: Repository, specs: Iterable[str]) -> list[Named]:
    """The points that *specs* name exactly, once each; CbtfsError if one of them is protected.

    UsageError if a name depends on the clock or on which other points there are. A point whose
    manifest cannot be read is in no listing: its whole id names it.
    """
    found = dict[PointId, Named]()
    for spec in specs:
        try:
            point = find_exact_point(repository, spec)
        except PointNotFound:
            if not is_id(spec) or spec not in repository.points.ids():
                raise
            found[PointId(spec)] = Named(PointId(spec), None)
            continue
        _refuse_protected(point)
        found[point.manifest.point] = Named(point.manifest.point, point)
    missing = missing_points(repository) & found.keys()
    if missing:
        raise ManifestsMissing(
            f"points/ lacks the manifests of {name_points(repository, missing)}: put them back "
            "from a copy of points/, or run 'cbtfs repair --restore-manifests'"
        )
    return list(found.values())


def _refuse_protected(point: Point) -> None:
    if point.state.is_protected:
        raise CbtfsError(
            f"point {point.manifest.point} is protected: "
            f"run 'cbtfs protect --off {point.manifest.point[:12]}' first"
        )


def to_give_up(repository: Repository, ids: Iterable[str]) -> list[PointId]:
    """Return the missing points that *ids* name, once each.

    UsageError if one is not the whole id of a missing point, CbtfsError if it is protected.
    """
    missing = missing_points(repository)
    found = dict[PointId, None]()
    for each in ids:
        point = PointId(each)
        if point not in missing:
            raise UsageError(
                f"{printable(each)} is not the whole id of a point whose manifest is missing: "
                "'cbtfs check' names these"
            )
        _refuse_protected(find_point(repository, each))
        found[point] = None
    return list(found)


def protect(repository: Repository, spec: str, here: Here, *, is_protected: bool) -> Changed:
    """Let no rule and no mistake forget a point, or let them again."""
    return _change(repository, spec, here, lambda state: replace(state, is_protected=is_protected))


def tag(
    repository: Repository,
    spec: str,
    here: Here,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
) -> Changed:
    """Give a point tags, and take others from it."""

    def change(state: PointState) -> PointState:
        tags = dict.fromkeys((*state.tags, *add))
        return replace(state, tags=tuple(each for each in tags if each not in remove))

    return _change(repository, spec, here, change)


def _change(
    repository: Repository, spec: str, here: Here, change: Callable[[PointState], PointState]
) -> Changed:
    point = find_point(repository, spec, here)
    state = change(point.state)
    repository.put_states([state])
    return Changed(point, state)
