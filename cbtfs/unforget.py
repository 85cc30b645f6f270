"""Bring forgotten restore points back, until a prune has removed what they need."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from cbtfs.core.ids import VmId
from cbtfs.core.manifest import DiskRecord, Manifest, PointState
from cbtfs.core.moment import parse_moment
from cbtfs.core.names import printable
from cbtfs.core.pointname import IdPrefix, MountName, Request, Until, parse_request
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound, UsageError
from cbtfs.listing import Point, current_clock, find_point, points, vm_names
from cbtfs.liveness import Marker
from cbtfs.store.catchup import Findings, recover_objects, settle_points
from cbtfs.store.files import storing
from cbtfs.store.quarantine import load_quarantine
from cbtfs.store.repository import Repository

_HEX_DIGITS: Final = frozenset("0123456789abcdef")
_NAMED: Final = 8
"""Maximum number of forgotten points that an error names."""


def unforget(repository: Repository, specs: Iterable[str]) -> list[Point]:
    """Bring the forgotten points back that *specs* name exactly. Return them, once each.

    Either all of them come back or none. Names are those that `forget` takes. A disk is marked as
    suspect if a later point of the same series of change lists is.

    Raises:
        PointNotFound: no forgotten point has the name, or several have it.
        UsageError: the name is not exact, or another point has the name now.
        DataCorrupt: a block map does not resolve completely, or a manifest is corrupt.
    """
    manifests = list({m.point: m for m in (_find(repository, spec) for spec in specs)}.values())
    for manifest in manifests:
        _refuse_taken_name(repository, manifest)
    _require_maps(repository, manifests)
    states = [state for manifest in manifests for state in _doubted(repository, manifest)]
    with storing("the folder of points"):
        for state in states:
            repository.points.put_state(state)
        repository.points.unforget(manifest.point for manifest in manifests)
    repository.drop_forgotten_listing()
    repository.catalog.update(lambda update: settle_points(update, repository.points, Findings()))
    clock = current_clock()
    return [find_point(repository, manifest.point, clock) for manifest in manifests]


def _find(repository: Repository, spec: str) -> Manifest:
    """Return the manifest of the forgotten point that *spec* names."""
    forgotten = repository.forgotten().manifests
    is_id = bool(spec) and _HEX_DIGITS.issuperset(spec)
    matches = [m for m in forgotten if is_id and m.point.startswith(spec)]
    name, at, which = spec.rpartition("@")
    if not matches and at:
        mine = _of_vm(repository, forgotten, name)
        matches = [m for m in mine if m.name == which] or _requested(mine, which, spec)
    if len(matches) == 1:
        return matches[0]
    raise _not_one(repository, spec, matches, forgotten)


def _of_vm(repository: Repository, forgotten: Sequence[Manifest], name: str) -> list[Manifest]:
    """Return the forgotten points of the VM *name*, be there other points of it or not."""
    with repository.catalog.view() as view:
        named = vm_names(view).find(name)
    known: set[VmId] = set() if named is None else {named.vm.id}
    mine = [m for m in forgotten if m.vm.id in known]
    return mine or [m for m in forgotten if name in (m.vm.name, m.vm.directory, m.vm.id)]


def _requested(mine: Sequence[Manifest], which: str, spec: str) -> list[Manifest]:
    try:
        request: Request = parse_request(which, current_clock())
    except ValueError as exc:
        raise PointNotFound(f"no point {printable(spec)!r}: {printable(str(exc))}") from exc
    if isinstance(request, IdPrefix):
        return [m for m in mine if m.point.startswith(request.digits)]
    if isinstance(request, Until) and request.exact is not None:
        return [m for m in mine if parse_moment(m.time) == request.exact]
    if isinstance(request, MountName):
        return []
    raise UsageError(
        f"{printable(spec)} is not the exact name of a point: name it by its exact time or id",
        map(_spelled, mine),
    )


def _not_one(
    repository: Repository, spec: str, matches: Sequence[Manifest], forgotten: Sequence[Manifest]
) -> PointNotFound:
    """Return the error for a name of no forgotten point, or of several."""
    shown = printable(spec)
    if matches:
        ids = [m.point for m in matches]
        some = ", ".join(ids[:_NAMED]) + (" …" if len(ids) > _NAMED else "")
        return PointNotFound(f"point {shown!r} is ambiguous: name one of {some}", ids)
    try:
        kept = find_point(repository, spec)
    except (PointNotFound, UsageError):
        pass
    else:
        return PointNotFound(f"point {printable(kept.spelled)} is not forgotten: nothing to do")
    newest = sorted(forgotten, key=lambda m: m.order, reverse=True)
    names = [f"{_spelled(m)} ({m.point[:12]})" for m in newest[:_NAMED]]
    known = f"the forgotten points are {', '.join(names)}" if names else "there is none"
    more = f" and {len(newest) - _NAMED} more" if len(newest) > _NAMED else ""
    if not repository.forgotten().is_complete:
        more += "; a forgotten manifest is corrupt or cannot be read"
    return PointNotFound(f"no forgotten point {shown!r}: {known}{more}", map(_spelled, newest))


def _spelled(manifest: Manifest) -> str:
    return printable(f"{manifest.vm.name}@{manifest.name}")


def _refuse_taken_name(repository: Repository, manifest: Manifest) -> None:
    with repository.catalog.view() as view:
        taken = [point for name, point in view.names_of(manifest.vm.id) if name == manifest.name]
    if taken:
        raise UsageError(
            f"cannot unforget point {manifest.point}: point {taken[0]} has the name "
            f"{_spelled(manifest)} now; forget that point first",
            taken,
        )


def _require_maps(repository: Repository, manifests: Sequence[Manifest]) -> None:
    """Raise DataCorrupt unless every block map resolves completely.

    A prune may have removed objects from the catalog that are still in packs: these are added.
    """
    try:
        _mark(repository, manifests)
        return
    except (ChunkMissing, DataCorrupt):
        pass
    packs, bad = repository.packs, load_quarantine(repository.path)
    repository.catalog.update(
        lambda update: recover_objects(update, packs, packs.ids(), bad, Findings())
    )
    try:
        _mark(repository, manifests)
    except (ChunkMissing, DataCorrupt) as exc:
        raise DataCorrupt(
            f"cannot unforget: a block map does not resolve, prune has removed its objects: {exc}"
        ) from exc


def _mark(repository: Repository, manifests: Sequence[Manifest]) -> None:
    with repository.catalog.view() as view:
        numbers = view.packs().keys()
    for manifest in manifests:
        # A marker each: nodes that an incomplete map has marked are not visited a second time.
        Marker(repository.catalog, numbers).mark([manifest])


def _doubted(repository: Repository, manifest: Manifest) -> list[PointState]:
    """Return the state of a point if an audit that ran while it was forgotten concerns it.

    Such an audit marks the points back to the disk's last full as suspect, retained ones only.
    """
    state = old = repository.points.load_state(manifest.point)[0]
    later = _later_points(repository, manifest)
    for disk in manifest.of_kind("disk"):
        reason = None if disk.ingest == "full" else _suspect_later(later, disk)
        if reason is not None and state.suspects(disk.id) is None:
            state = state.suspecting(disk.id, reason)
    return [] if state == old else [state]


def _later_points(
    repository: Repository, manifest: Manifest
) -> Collection[tuple[Manifest, PointState]]:
    """Return the later points of the VM, retained or forgotten, in the order of capture."""
    with repository.catalog.view() as view:
        candidates = [(point.manifest, point.state) for point in points(view, manifest.vm.id)]
    candidates += [
        (other, repository.points.load_state(other.point)[0])
        for other in repository.forgotten().manifests
        if other.vm.id == manifest.vm.id and other.point != manifest.point
    ]
    later = [candidate for candidate in candidates if candidate[0].order > manifest.order]
    return sorted(later, key=lambda candidate: candidate[0].order)


def _suspect_later(later: Iterable[tuple[Manifest, PointState]], disk: DiskRecord) -> str | None:
    """Return why a later point of *disk* is suspect; None from the next full of the disk on."""
    for manifest, state in later:
        same = next((d for d in manifest.disks if d.id == disk.id), None)
        if same is None:
            continue
        if same.ingest == "full":
            return None
        if state.suspect_disks and (reason := state.suspects(disk.id)):
            return reason
    return None
