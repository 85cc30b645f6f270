"""Bring forgotten restore points back, until a prune has removed what they need."""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Final

from cbtfs.core.distrust import Distrust
from cbtfs.core.ids import PointId, VmId
from cbtfs.core.lineage import Lineage, lineage
from cbtfs.core.manifest import DiskRecord, Manifest, PointState
from cbtfs.core.moment import parse_moment
from cbtfs.core.names import printable
from cbtfs.core.pointname import IdPrefix, MountName, Request, Until, parse_request
from cbtfs.core.reasons import FullReason
from cbtfs.errors import ChunkMissing, DataCorrupt, PointNotFound, UsageError
from cbtfs.listing import Point, current_clock, find_point, manifests_of, vm_names
from cbtfs.liveness import Marker
from cbtfs.store.catalog.update import Update
from cbtfs.store.catchup import Findings, recover_objects, settle_points
from cbtfs.store.quarantine import load_quarantine
from cbtfs.store.repository import Repository
from cbtfs.store.storing import storing

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
    for number, manifest in enumerate(manifests):
        _refuse_taken_name(repository, manifest, manifests[:number])
    _require_maps(repository, manifests)
    states = [state for manifest in manifests for state in _doubted(repository, manifest)]
    with repository.catalog.view() as view:
        absent = {m.vm.id for m in manifests} - view.vms().keys()
    with storing("the folder of points"):
        for state in states:
            repository.points.put_state(state)
        repository.points.unforget(manifest.point for manifest in manifests)
    repository.drop_forgotten_listing()
    repository.catalog.update(lambda update: _settle(update, repository, absent))
    clock = current_clock()
    return [find_point(repository, manifest.point, clock) for manifest in manifests]


def _settle(update: Update, repository: Repository, absent: Collection[VmId]) -> None:
    """Bring the catalog up to date.

    A VM that was *absent* may have been captured under another id since. So lists that are relative
    to its last committed point are not trusted.
    """
    settle_points(update, repository.points, Findings())
    for vm in absent:
        for order, _ in islice(update.points_of(vm, newest_first=True), 1):
            update.set_unproven(vm, order)


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
    known = (
        f"the forgotten points are {', '.join(names)}"
        if names
        else "there is none, or a prune removed it"
    )
    more = f" and {len(newest) - _NAMED} more" if len(newest) > _NAMED else ""
    if not repository.forgotten().is_complete:
        more += "; a forgotten manifest is corrupt or cannot be read"
    return PointNotFound(f"no forgotten point {shown!r}: {known}{more}", map(_spelled, newest))


def _spelled(manifest: Manifest) -> str:
    return printable(f"{manifest.vm.name}@{manifest.name}")


def _refuse_taken_name(
    repository: Repository, manifest: Manifest, others: Iterable[Manifest]
) -> None:
    """Raise UsageError if a point of the VM, or one of *others*, has the name of *manifest*."""
    with repository.catalog.view() as view:
        taken = [point for name, point in view.names_of(manifest.vm.id) if name == manifest.name]
    taken += [o.point for o in others if (o.vm.id, o.name) == (manifest.vm.id, manifest.name)]
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
    present = packs.ids()

    def recover(update: Update) -> None:
        # Packs that other writers have not entered yet have nothing of a forgotten point.
        known = present & update.pack_numbers().keys()
        recover_objects(update, packs, known, bad, Findings())

    repository.catalog.update(recover)
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

    Such an audit marks the points that share a change list with its base, retained ones only.
    """
    state = old = repository.points.load_state(manifest.point)[0]
    manifests = manifests_of(repository, manifest.vm.id)
    for disk in manifest.of_kind("disk"):
        if state.suspects(disk.id) is None:
            reason = _suspect_list(repository, manifests, manifest.point, disk)
            state = state if reason is None else state.suspecting(disk.id, reason)
    return [] if state == old else [state]


def _suspect_list(
    repository: Repository, manifests: Sequence[Manifest], point: PointId, disk: DiskRecord
) -> str | None:
    """Return why a change list that *point* may depend on lacks changes; None if none is known."""
    chains = lineage(manifests, disk.id)
    found = repository.distrust.load(disk.id)
    if disk.allocation is not None and disk.allocation.unproven:
        reason = _wrong_allocation(chains, found, point)
        if reason is not None:
            return reason
    for other, record in chains.records.items():
        base = record.parent if record.full_reason == FullReason.AUDIT else other
        if other == point or base is None or not chains.may_share_lists(point, base):
            continue
        if record.full_reason == FullReason.AUDIT:
            return record.reason
        state = repository.points.load_state(other)[0]
        if state.suspect_disks and (reason := state.suspects(disk.id)):
            return reason
    if found is not None and found.base and chains.may_share_lists(point, found.base):
        return f"change tracking missed blocks, detected at {found.found}"
    return None


def _wrong_allocation(chains: Lineage, found: Distrust | None, point: PointId) -> str | None:
    """Return why areas that *point* lacks may hold data; None if no later run found any."""
    order = chains.orders[point]
    for other, record in chains.records.items():
        if record.full_reason == FullReason.ALLOCATION and chains.orders[other] > order:
            return record.reason
    if found is not None and found.is_allocation and found.order >= order:
        return f"the server called blocks unallocated that hold data, detected at {found.found}"
    return None
