"""One virtual machine: power, configuration, disks, snapshots, and their effects on CBT.

Methods raise Fault where vSphere does. The world's lock covers all methods. Change tracking
starts and ends at a stun: power-on, snapshot create, remove or revert, resume, migration (VDDK
Programming Guide, "Enable CBT").
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tools.vsim.fault import Fault, invalid_argument, invalid_power_state
from tools.vsim.knobs import CbtKnobs, Knobs
from tools.vsim.model.disk import Link, SimulatedDisk
from tools.vsim.model.snapshot import Snapshot, SnapshotRequest, SnapshotTree
from tools.vsim.model.spec import VM_LEVEL_KEY, MachineSpec

NEWEST_HARDWARE = 21
FileLocation = tuple[str, str]  # datastore, directory
QUIESCE_FAULTS = {
    "application": (
        "vim.fault.ApplicationQuiesceFault",
        "An error occurred while quiescing the virtual machine. See the virtual machine's event log"
        " for details.",
    ),
    "filesystem": (
        "vim.fault.FilesystemQuiesceFault",
        "An error occurred while taking a snapshot: Failed to quiesce the virtual machine.",
    ),
    "tools": (
        "vim.fault.ToolsUnavailable",
        "Cannot complete operation because VMware Tools is not running in this virtual machine.",
    ),
}


class SimulatedMachine:
    """A virtual machine."""

    def __init__(
        self, moid: str, spec: MachineSpec, knobs: Knobs, directory: str, datastore: str
    ) -> None:
        self.moid = moid
        self.spec = spec
        self.knobs = knobs
        self.directory = directory  # on the datastore
        self.datastore = datastore
        self.power = "poweredOff"
        self.tools_running = True
        self.disks: list[SimulatedDisk] = []
        self.snapshots = SnapshotTree()
        self.readers: Counter[str] = Counter()  # open data connections by snapshot id
        self.change_version = 0
        self.relocation_disabled_by: list[str] = []  # identity given to PrepareForAccess
        self.question: str | None = None
        self.shared_bus = "noSharing"  # sharing of the SCSI controllers

    @property
    def is_on(self) -> bool:
        return self.power == "poweredOn"

    def disk(self, key: int) -> SimulatedDisk | None:
        return next((disk for disk in self.disks if disk.spec.key == key), None)

    def cbt_of(self, disk: SimulatedDisk) -> CbtKnobs:
        return disk.cbt or self.knobs.cbt

    # power

    def power_on(self) -> None:
        """Power on, from off or suspended."""
        self._require("poweredOff", "suspended", requested="poweredOn")
        if self.spec.template:
            raise Fault("vmodl.fault.NotSupported", "The operation is not supported on the object.")
        self.power = "poweredOn"
        if self.spec.extra.get(VM_LEVEL_KEY, "").upper() == "TRUE" and self.spec.can_track:
            self.spec = replace(self.spec, cbt=True)
        self.stun()

    def power_off(self, *, hard: bool = True) -> None:
        """Power off; *hard* is PowerOffVM_Task, otherwise the guest shuts down."""
        self._require("poweredOn", "suspended", requested="poweredOff")
        self.power = "poweredOff"
        self.stun()
        for disk in self.disks:
            if hard and self.cbt_of(disk).hard_power_off == "reset":
                disk.stop_tracking()

    def suspend(self) -> None:
        """Suspend the running machine."""
        self._require("poweredOn", requested="suspended")
        self.power = "suspended"
        self.stun()

    def crash(self) -> None:
        """Simulate a power loss of the host: change maps in memory are lost (VMware KB 432633)."""
        self._require("poweredOn", requested="poweredOff")
        self.power = "poweredOff"
        for disk in self.disks:
            disk.stop_tracking()

    def stun(self) -> None:
        """Stun the guest: apply pending settings and update the change maps."""
        for disk in self.disks:
            self._apply_tracking(disk)
            disk.settle(self.cbt_of(disk))

    # configuration

    def set_tracking(self, enabled: bool) -> None:
        """Set changeTrackingEnabled; it acts at the next stun, or at once if the machine is off."""
        if enabled and not self.spec.can_track:
            raise Fault("vmodl.fault.NotSupported", "Change tracking needs virtual hardware 7.")
        if enabled and len(self.snapshots) and self.knobs.snapshot.enable_with_snapshots == "fault":
            raise Fault("vim.fault.InvalidState", "The virtual machine has snapshots.")
        extra = dict(self.spec.extra)
        for disk in (None, *self.disks):
            if enabled == self.spec.cbt and not (disk and self.cbt_of(disk).flag_writes_keys):
                continue
            key = f"{disk.spec.slot}.{VM_LEVEL_KEY}" if disk else VM_LEVEL_KEY
            extra.pop(key, None)
            if enabled:
                extra[key] = "TRUE"
        self.configure(replace(self.spec, cbt=enabled, extra=extra))

    def set_disk_tracking(self, disk: SimulatedDisk, enabled: bool) -> None:
        """Set ctkEnabled of a disk; it acts at the next stun, or at once if the machine is off."""
        extra = {
            **self.spec.extra,
            f"{disk.spec.slot}.{VM_LEVEL_KEY}": "TRUE" if enabled else "FALSE",
        }
        self.configure(replace(self.spec, extra=extra))

    def configure(self, spec: MachineSpec) -> None:
        """Replace the configuration."""
        self.spec = spec
        self.change_version += 1
        if not self.is_on:
            for disk in self.disks:
                self._apply_tracking(disk)

    def upgrade(self, hardware: int | None) -> None:
        """Upgrade the virtual hardware, by default to the newest version."""
        if self.power != "poweredOff":
            raise invalid_power_state(self.power, "poweredOff")
        target = hardware or NEWEST_HARDWARE
        if target <= self.spec.hardware:
            raise Fault("vim.fault.AlreadyUpgraded", "Virtual machine is already up to date.")
        self.configure(replace(self.spec, hardware=target))

    def add_disk(self, disk: SimulatedDisk) -> None:
        """Add a disk; it is tracked if the machine is."""
        self.disks.append(disk)
        if self.spec.cbt and disk.spec.trackable:
            extra = {**self.spec.extra, f"{disk.spec.slot}.{VM_LEVEL_KEY}": "TRUE"}
            self.spec = replace(self.spec, extra=extra)
        self.configure(self.spec)

    def remove_disk(self, key: int) -> None:
        """Remove the disk with that device key."""
        disk = self._require_disk(key)
        self.disks.remove(disk)
        slot_key = f"{disk.spec.slot}.{VM_LEVEL_KEY}"
        extra = {name: value for name, value in self.spec.extra.items() if name != slot_key}
        self.configure(replace(self.spec, extra=extra))

    def grow_disk(self, key: int, size: int) -> None:
        """Extend a disk; raises Fault if the machine has snapshots."""
        disk = self._require_disk(key)
        if len(self.snapshots) or size < disk.spec.size:
            raise Fault(
                "vim.fault.InvalidDeviceSpec",
                "Invalid configuration for device '0'.",
                deviceIndex=0,
            )
        disk.grow(size, self.cbt_of(disk))
        self.change_version += 1

    def relocate(self, home: FileLocation | None, disks: Mapping[int, FileLocation]) -> None:
        """Move the machine's own files to *home*, and disks by device key to other locations."""
        if self.relocation_disabled_by:
            raise Fault(
                "vim.fault.MethodDisabled",
                f"The method is disabled by '{self.relocation_disabled_by[0]}'",
                source=self.relocation_disabled_by[0],
            )
        for key in disks:
            self._require_disk(key)
        if home is not None:
            self.datastore, self.directory = home
        moved = [disk for disk in self.disks if disk.spec.key in disks]
        for disk in moved:
            disk.move(*disks[disk.spec.key])
            if self.cbt_of(disk).relocate == "reset":
                disk.stop_tracking()
        if any(self.cbt_of(disk).relocate == "off" for disk in moved):
            self.set_tracking(False)
        self.change_version += 1
        self.stun()

    def restore(self, key: int, offset: int, data: bytes) -> None:
        """Write to a disk as the restore of another product does; the machine must be off.

        The write resets tracking, or tracking misses it (VDDK Programming Guide, "Restore
        Incremental Backup Data": tracking is wrong once a restore starts).
        """
        disk = self._require_disk(key)
        self._require("poweredOff", requested="poweredOff")
        if len(self.snapshots):
            raise Fault("vim.fault.InvalidState", "The virtual machine has snapshots.")
        disk.settle(self.cbt_of(disk))
        disk.write(offset, data)
        disk.overlook(self.cbt_of(disk))
        if self.cbt_of(disk).restore == "reset":
            disk.stop_tracking()
            self._apply_tracking(disk)

    def disable_relocation(self, identity: str) -> None:
        """Disable relocation, as VDDK's PrepareForAccess does, for one identity at a time."""
        if self.relocation_disabled_by:
            raise Fault(
                "vim.fault.MethodAlreadyDisabledFault",
                f"RelocateVM_Task is disabled by '{self.relocation_disabled_by[0]}'",
                sourceId=self.relocation_disabled_by[0],
            )
        self.relocation_disabled_by.append(identity)

    def enable_relocation(self, identity: str) -> None:
        """Enable relocation, as EndAccess does; *identity* must be the one that disabled it."""
        if identity not in self.relocation_disabled_by:
            raise Fault("vim.fault.NotFound", f"RelocateVM_Task is not disabled by '{identity}'")
        self.relocation_disabled_by.remove(identity)

    # snapshots

    def take_snapshot(
        self, request: SnapshotRequest, moid: str, number: int, created: datetime, keep: Path
    ) -> Snapshot:
        """Take a snapshot as CreateSnapshot_Task does; *keep* is the directory of its images."""
        quiesced = self._check_snapshot(request)
        keep.mkdir(parents=True)
        states = []
        for disk in self.disks:
            self._apply_tracking(disk)
            states.append(disk.freeze(self.cbt_of(disk), keep / f"{disk.spec.key}.raw"))
        snapshot = Snapshot(
            moid=moid,
            number=number,
            name=request.name,
            description=request.description,
            created=created,
            quiesced=quiesced,
            power=self.power if request.memory else "poweredOff",
            parent=self.snapshots.current,
            spec=self.spec,
            disks=tuple(states),
        )
        self.snapshots.add(snapshot)
        self.change_version += 1
        return snapshot

    def remove_snapshots(self, doomed: Iterable[Snapshot], *, consolidate: bool = True) -> None:
        """Remove snapshots in the given order; the data of the others does not change."""
        locked = False
        for snapshot in doomed:
            locked = locked or self.readers[snapshot.moid] > 0
            self.snapshots.remove(snapshot)
            if not self.knobs.snapshot.keep_truth:
                for state in snapshot.disks:
                    if state.truth:
                        state.truth.unlink()
        self.change_version += 1
        self.stun()
        locked = locked and self.knobs.snapshot.locked_by_readers
        if consolidate and not locked and not self.knobs.snapshot.needs_consolidation:
            self._merge_links()

    def revert(self, snapshot: Snapshot) -> None:
        """Restore disks and configuration of the snapshot; later writes are lost."""
        self.stun()
        self.spec = snapshot.spec
        self.disks = [state.disk for state in snapshot.disks]
        for state in snapshot.disks:
            state.disk.revert(state, self.cbt_of(state.disk))
        self.snapshots.current = snapshot
        self.power = snapshot.power
        self.change_version += 1
        self._merge_links()

    @property
    def consolidation_needed(self) -> bool:
        """Whether a disk has links that no snapshot needs."""
        held = self._held_links()
        return any(
            link not in held
            and link is not disk.current
            and link is not disk.origin
            and sum(child.parent is link for child in disk.links) < 2
            for disk in self.disks
            for link in disk.links
        )

    def consolidate(self) -> None:
        """Merge links that no snapshot needs; raises FileLocked as the knobs say."""
        if self.knobs.snapshot.consolidate_locked or (
            self.knobs.snapshot.locked_by_readers and +self.readers
        ):
            raise Fault(
                "vim.fault.FileLocked",
                "Unable to access file since it is locked",
                file=self.disks[0].path() if self.disks else self.datastore,
            )
        self._merge_links()

    def _apply_tracking(self, disk: SimulatedDisk) -> None:
        enabled = disk.spec.trackable and self.spec.tracks(disk.spec.slot)
        if enabled and disk.tracker is None:
            disk.start_tracking(self.cbt_of(disk))
            spoils = self.knobs.snapshot.enable_with_snapshots == "spoils"
            disk.skewed = spoils and len(self.snapshots) > 0
        elif not enabled:
            disk.stop_tracking()

    def _check_snapshot(self, request: SnapshotRequest) -> bool:
        """Return whether the snapshot is quiesced; raises Fault if it cannot be taken."""
        if self.spec.template:
            raise Fault("vmodl.fault.NotSupported", "The operation is not supported on the object.")
        depth = self.snapshots.current.depth if self.snapshots.current else 0
        if depth >= self.knobs.snapshot.max_depth:
            raise Fault("vim.fault.TooManySnapshotLevels", "Snapshot hierarchy is too deep.")
        for disk in self.disks:
            shared = disk.spec.in_snapshots and (
                disk.spec.sharing == "sharingMultiWriter" or self._is_on_shared_bus(disk)
            )
            pass_through = disk.spec.backing == "rdm-physical"
            if shared or (pass_through and self.knobs.snapshot.physical_rdm == "fault"):
                raise Fault(
                    "vim.fault.SnapshotIncompatibleDeviceInVm",
                    "The virtual machine has virtual devices that prevent taking a snapshot.",
                    fault=Fault(
                        "vim.fault.SharedBusControllerNotSupported"
                        if shared
                        else "vim.fault.RawDiskNotSupported",
                        disk.spec.label,
                        device=disk.spec.label,
                    ),
                )
            if request.memory and disk.spec.mode.startswith("independent"):
                raise Fault(
                    "vim.fault.MemorySnapshotOnIndependentDisk",
                    "Cannot take a memory snapshot of a machine with independent disks.",
                )
        if not (request.quiesce and self.is_on and self.tools_running):
            return False
        if self.knobs.snapshot.quiesce in QUIESCE_FAULTS:
            raise Fault(*QUIESCE_FAULTS[self.knobs.snapshot.quiesce])
        return self.knobs.snapshot.quiesce == "ok"

    def _is_on_shared_bus(self, disk: SimulatedDisk) -> bool:
        return self.shared_bus != "noSharing" and disk.spec.slot.startswith("scsi")

    def _held_links(self) -> set[Link]:
        return {state.link for snapshot in self.snapshots for state in snapshot.disks}

    def _merge_links(self) -> None:
        held = self._held_links()
        for disk in {*self.disks, *(state.disk for held in self.snapshots for state in held.disks)}:
            disk.consolidate(held)

    def _require(self, *states: str, requested: str) -> None:
        if self.power not in states:
            raise invalid_power_state(self.power, requested)

    def _require_disk(self, key: int) -> SimulatedDisk:
        disk = self.disk(key)
        if disk is None:
            raise invalid_argument("deviceKey")
        return disk
