"""Restore points as listings show them, decoded from the catalog."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cbtfs.core.blockmap import Shape
from cbtfs.core.dated import Dated
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, PointId, VmId
from cbtfs.core.manifest import (
    DiskRecord,
    Manifest,
    PointState,
    decode_manifest,
    decode_state,
    unknown_state,
)
from cbtfs.core.moment import parse_moment
from cbtfs.core.vmname import VmNames
from cbtfs.store.catalog.records import CatalogDamaged, PointRecord
from cbtfs.store.catalog.view import View


@dataclass(frozen=True, slots=True)
class Point:
    """A restore point as listings show it."""

    manifest: Manifest
    state: PointState
    is_damaged: bool
    """A block map of it is missing: reads fail."""
    is_missing: bool = False
    """Its manifest is missing from points/: only the catalog knows it."""
    vm_label: str | None = None
    """What commands call its VM now; None where nobody has looked."""
    vm_directory: str | None = None
    """The VM's directory in the mount; None where nobody has looked."""

    @property
    def directory(self) -> str:
        """The VM's directory in the mount, or the one on record."""
        return self.vm_directory or self.manifest.vm.directory

    @property
    def spelled(self) -> str:
        """The point's name as commands take it: VM@NAME."""
        return f"{self.vm_label or self.manifest.vm.name}@{self.manifest.name}"

    @property
    def dated(self) -> Dated:
        """When it was captured and the moment that it shows."""
        manifest = self.manifest
        time = parse_moment(manifest.time)
        return Dated(manifest.point, manifest.order, time, manifest.is_clocked)

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


def labelled(point: Point, names: VmNames) -> Point:
    """Return *point* with what its VM is called now."""
    vm = point.manifest.vm.id
    return replace(point, vm_label=names.labels.get(vm), vm_directory=names.directories.get(vm))


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
