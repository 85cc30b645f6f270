"""Restore points for listings, decoded from the catalog."""

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
    """A restore point in a listing."""

    manifest: Manifest
    state: PointState
    is_damaged: bool
    """Whether a block map is missing, so that reads fail."""
    is_missing: bool = False
    """Whether the manifest is missing from points/, so that only the catalog knows the point."""
    vm_label: str | None = None
    """Current label of the VM in commands; None if it was not looked up."""
    vm_directory: str | None = None
    """Directory of the VM in the mount; None if it was not looked up."""

    @property
    def directory(self) -> str:
        """Directory of the VM in the mount, or the recorded one."""
        return self.vm_directory or self.manifest.vm.directory

    @property
    def spelled(self) -> str:
        """Name of the point in commands: VM@NAME."""
        return f"{self.vm_label or self.manifest.vm.name}@{self.manifest.name}"

    @property
    def dated(self) -> Dated:
        """Order of capture and time of the point."""
        manifest = self.manifest
        time = parse_moment(manifest.time)
        return Dated(manifest.point, manifest.order, time, manifest.is_clocked)

    @property
    def suspect(self) -> str | None:
        """Why bytes of the point may be wrong; None if it is not suspect."""
        if self.state.suspect is not None:
            return self.state.suspect
        return next((d.suspect for d in self.manifest.disks if d.suspect is not None), None)

    def suspect_disk(self, disk: DiskRecord) -> str | None:
        """Return why bytes of *disk* may be wrong; None if it is not suspect."""
        return self.state.suspects(disk.id) or disk.suspect

    @property
    def marks(self) -> list[str]:
        """Warnings for the user: any of "missing", "damaged", "suspect", "protected"."""
        facts = {
            "missing": self.is_missing,
            "damaged": self.is_damaged,
            "suspect": self.suspect is not None,
            "protected": self.state.is_protected,
        }
        return [mark for mark, holds in facts.items() if holds]


def labelled(point: Point, names: VmNames) -> Point:
    """Return *point* with the current label and directory of its VM."""
    vm = point.manifest.vm.id
    return replace(point, vm_label=names.labels.get(vm), vm_directory=names.directories.get(vm))


def decode(view: View, point: PointId, record: PointRecord) -> Point:
    """Decode the catalog's record of a point."""
    try:
        manifest = decode_manifest(record.manifest)
    except ValueError as exc:
        raise CatalogDamaged(f"point {point}: {exc}") from exc
    return with_state(view, point, manifest, record)


def with_state(view: View, point: PointId, manifest: Manifest, record: PointRecord) -> Point:
    """Return a point from its decoded *manifest* and the state in the catalog's record."""
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
    """Yield the points of one VM or of all VMs, in order of capture for each VM."""
    for vm_id in view.vms() if vm is None else (vm,):
        for _, point in view.points_of(vm_id):
            record = view.point(point)
            if record is not None:
                yield decode(view, point, record)
