"""Which restore points there are, and the one that a user means."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cbtfs.core.blockmap import Shape
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, PointId, VmId
from cbtfs.core.manifest import (
    DiskRecord,
    Manifest,
    PointState,
    Vm,
    decode_manifest,
    decode_state,
    unknown_state,
)
from cbtfs.core.names import printable
from cbtfs.errors import PointNotFound
from cbtfs.store.catalog.records import CatalogDamaged, PointRecord
from cbtfs.store.catalog.view import View
from cbtfs.store.repository import Repository

_HEX = re.compile(r"[0-9a-f]+\Z")


@dataclass(frozen=True, slots=True)
class Point:
    """A restore point as listings show it."""

    manifest: Manifest
    state: PointState
    is_damaged: bool
    """A block map of it is missing: reads fail."""
    is_missing: bool = False
    """Its manifest is missing from points/: only the catalog knows it."""

    @property
    def suspect(self) -> str | None:
        """Why not every byte of it is to be trusted."""
        if self.state.suspect is not None:
            return self.state.suspect
        return next((d.suspect for d in self.manifest.disks if d.suspect is not None), None)

    def suspect_disk(self, disk: DiskRecord) -> str | None:
        """The same of one of its disks."""
        return self.state.suspects(disk.id) or disk.suspect

    @property
    def marks(self) -> list[str]:
        """What a user must know of it: any of "missing", "damaged", "suspect", "protected"."""
        facts = {
            "missing": self.is_missing,
            "damaged": self.is_damaged,
            "suspect": self.suspect is not None,
            "protected": self.state.is_protected,
        }
        return [mark for mark, holds in facts.items() if holds]


def decode(view: View, point: PointId, record: PointRecord) -> Point:
    """What the catalog's record of a point says."""
    try:
        manifest = decode_manifest(record.manifest)
    except ValueError as exc:
        raise CatalogDamaged(f"point {point}: {exc}") from exc
    return with_state(view, point, manifest, record)


def with_state(view: View, point: PointId, manifest: Manifest, record: PointRecord) -> Point:
    """The same, of a point whose *manifest* is decoded already."""
    try:
        state = decode_state(record.state, point) if record.state else unknown_state(point)
    except ValueError as exc:
        raise CatalogDamaged(f"point {point}: {exc}") from exc
    is_damaged = any(_is_missing(view, disk) for disk in manifest.disks)
    return Point(manifest, state, is_damaged, point in view.missing)


def _is_missing(view: View, disk: DiskRecord) -> bool:
    height = Shape(disk.size, disk.block_size).height
    return disk.root != NULL_DIGEST and view.find(Kind.NODE, height, disk.root) is None


def points(view: View, vm: VmId | None = None) -> Iterator[Point]:
    """The points of one VM or of all, each VM's in the order of their capture."""
    for each in view.vms() if vm is None else (vm,):
        for _, point in view.points_of(each):
            record = view.point(point)
            if record is not None:
                yield decode(view, point, record)


def find_vms(view: View, name: str) -> list[Vm]:
    """The VMs of that name, directory in the mount, or id."""
    return [vm for vm in view.vms().values() if name in (vm.name, vm.directory, vm.id)]


def find_vm(view: View, name: str) -> Vm:
    """The one VM of that name; PointNotFound if there is none or more than one."""
    found = find_vms(view, name)
    if not found:
        raise PointNotFound(f"no VM {printable(name)!r} here: 'cbtfs list' shows what there is")
    if len(found) > 1:
        names = ", ".join(sorted(vm.directory for vm in found))
        raise PointNotFound(f"VM {printable(name)!r} is ambiguous: name one of {names}")
    return found[0]


def find_point(repository: Repository, spec: str) -> Point:
    """The point that *spec* means: VM@latest, VM@TIME as the mount spells it, or an id prefix.

    PointNotFound if it means none, or several: then the message lists them.
    """
    with repository.catalog.view() as view:
        name, at, which = spec.rpartition("@")
        candidates = list(_of_vm(view, name, which)) if at else _by_prefix(view, spec)
        if len(candidates) == 1:
            record = view.point(candidates[0])
            if record is not None:
                return decode(view, candidates[0], record)
        if candidates:
            shown = ", ".join(candidates[:8]) + (" …" if len(candidates) > 8 else "")
            raise PointNotFound(f"point {printable(spec)!r} is ambiguous: name one of {shown}")
    raise PointNotFound(f"no point {printable(spec)!r}: 'cbtfs list' shows what there is")


def _by_prefix(view: View, prefix: str) -> list[PointId]:
    return view.point_ids(prefix) if _HEX.match(prefix) else []


def _of_vm(view: View, name: str, which: str) -> Iterator[PointId]:
    vm = find_vm(view, name)
    if which == "latest":
        newest = next(view.points_of(vm.id, newest_first=True), None)
        if newest is not None:
            yield newest[1]
        return
    for found, point in view.names_of(vm.id):
        if found == which:
            yield point


def find_disk(point: Point, label: str) -> DiskRecord:
    """The disk of that label or id; PointNotFound names those that there are."""
    disk = point.manifest.disk(label)
    if disk is None:
        labels = ", ".join(printable(each.label) for each in point.manifest.disks)
        raise PointNotFound(f"no disk {printable(label)!r} in this point: it has {labels}")
    return disk
