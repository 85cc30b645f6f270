"""HttpNfcLease: download of the disks of a snapshot, or of a machine that is off.

No task may change a machine while a lease on it is open. A lease times out after
`data.lease_seconds` without a progress report.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tools.vsim.api.base import ClientSession, MethodCall, Properties, SessionObject, Site
from tools.vsim.fault import Fault, MoRef, invalid_power_state
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.slots import parse_slot
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.soap.vmodl import long, managed_object, method_fault, vim

HELD = ("initializing", "ready")
CONTROLLERS = {
    "scsi": "ParaVirtualSCSIController",
    "sata": "VirtualAHCIController",
    "nvme": "VirtualNVMEController",
    "ide": "VirtualIDEController",
}


@dataclass(frozen=True, slots=True)
class LeasedDisk:
    """A disk that a lease offers for download."""

    key: int
    label: str
    size: int
    image: Path
    export: str  # name for read rules
    name: str  # last component of the URL
    slot: str

    @property
    def device(self) -> str:
        """The last component of the key, in the form of vSphere: ParaVirtualSCSIController0:1."""
        slot = parse_slot(self.slot)
        return f"{CONTROLLERS[slot.bus]}{slot.controller}:{slot.unit}"


class Lease(SessionObject):
    """One export lease."""

    kind = vim.HttpNfcLease

    def __init__(
        self, site: Site, session: ClientSession, machine: SimulatedMachine, disks: list[LeasedDisk]
    ) -> None:
        super().__init__(site, f"session[{session.key}]{uuid4()}")
        self.machine = machine
        self.disks = disks
        self.ticket = str(uuid4())
        self.state = "initializing"
        self.error: Fault | None = None
        self.percent = 0
        self._reported_at = site.world.monotonic()
        session.objects[self.moid] = self

    def end(self) -> None:
        """Fail the lease because its session ended."""
        self._fail(Fault("vim.fault.NotAuthenticated", "The session has ended."))

    def make_ready(self) -> None:
        """Set the state to ready."""
        if self.state == "initializing":
            if self.site.world.knobs.data.lease_fails:
                self._fail(Fault("vim.fault.FileFault", "A file error occurred.", file="web1.vmdk"))
                return
            self.state = "ready"
            self._reported_at = self.site.world.monotonic()

    def check_timeout(self) -> None:
        """Fail the lease if the last progress report is too old."""
        seconds = self.site.world.knobs.data.lease_seconds
        if self.state == "ready" and self.site.world.monotonic() - self._reported_at > seconds:
            self._fail(Fault("vim.fault.Timedout", "The lease has timed out."))

    def properties(self) -> Properties:
        self.check_timeout()
        return {
            "initializeProgress": lambda: 0 if self.state == "initializing" else 100,
            "transferProgress": lambda: self.percent,
            "mode": lambda: "pushOrGet",
            "capabilities": lambda: vim.HttpNfcLease.Capabilities(
                pullModeSupported=False, corsSupported=False
            ),
            "info": lambda: self._info() if self.state == "ready" else None,
            "state": lambda: self.state,
            "error": lambda: method_fault(self.error) if self.error else None,
        }

    def HttpNfcLeaseProgress(self, call: MethodCall, percent: int) -> None:
        self._require_ready()
        with self.site.world.changing():
            self.percent = percent
            self._reported_at = self.site.world.monotonic()

    def HttpNfcLeaseComplete(self, call: MethodCall) -> None:
        self._require_ready()
        with self.site.world.changing():
            self.state = "done"

    def HttpNfcLeaseAbort(self, call: MethodCall, fault: Any) -> None:
        self.check_timeout()
        if self.state in HELD:
            with self.site.world.changing():
                self._fail(Fault("vmodl.fault.RequestCanceled", "The lease was aborted."))

    def _require_ready(self) -> None:
        self.check_timeout()
        if self.state != "ready":
            if self.error and self.error.name == "vim.fault.Timedout":
                raise self.error
            raise Fault("vim.fault.InvalidState", f"The lease is {self.state}.")

    def _fail(self, error: Fault) -> None:
        if self.state in HELD:
            self.state, self.error = "error", error

    def _info(self) -> Any:
        knobs = self.site.world.knobs.data
        host = "*" if knobs.lease_star else knobs.lease_host or self.site.host
        pins = {"thumbprint": self.site.thumbprint, "none": "", "wrong": ":".join(["00"] * 20)}
        urls = [
            vim.HttpNfcLease.DeviceUrl(
                key=f"/{self.machine.moid}/{disk.device}",
                importKey=f"/{self.machine.spec.name}/{disk.device}",
                url=f"{self.site.scheme}://{host}:{self.site.port}/nfc/{self.ticket}/{disk.name}",
                sslThumbprint=pins[knobs.lease_pin],
                disk=True,
                targetId=disk.name,
            )
            for disk in self.disks
        ]
        return vim.HttpNfcLease.Info(
            lease=self.object,
            entity=managed_object(MoRef("vim.VirtualMachine", self.machine.moid)),
            deviceUrl=urls,
            totalDiskCapacityInKB=long(sum(disk.size for disk in self.disks) >> 10),
            leaseTimeout=int(self.site.world.knobs.data.lease_seconds),
        )


class LeaseRegistry:
    """All open leases. The world's lock covers the methods."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._all: list[Lease] = []

    def __iter__(self) -> Iterator[Lease]:
        for lease in self._all:
            lease.check_timeout()
        return iter([lease for lease in self._all if lease.state in HELD])

    def of(self, machine: SimulatedMachine) -> Lease | None:
        """Return the open lease of a machine."""
        return next((lease for lease in self if lease.machine is machine), None)

    def require_none(self, machine: SimulatedMachine) -> None:
        """Raise InvalidState if the machine is exported."""
        if self.of(machine):
            raise Fault(
                "vim.fault.InvalidState",
                "The operation is not allowed in the current state: the machine is exported.",
            )

    def export_snapshot(
        self, call: MethodCall, machine: SimulatedMachine, snapshot: Snapshot
    ) -> Any:
        """Open a lease on the disks of a snapshot; return its reference."""
        disks = [
            LeasedDisk(
                state.spec.key,
                state.spec.label,
                state.spec.size,
                state.truth,
                f"{machine.moid}/{snapshot.moid}/{state.spec.key}",
                f"disk-{number}.vmdk",
                state.spec.slot,
            )
            for number, state in enumerate(snapshot.disks)
            if state.truth
        ]
        return self._open(call, machine, disks)

    def export_machine(self, call: MethodCall, machine: SimulatedMachine) -> Any:
        """Open a lease on the live disks of a machine that is off; return its reference."""
        if machine.power != "poweredOff":
            raise invalid_power_state(machine.power, "poweredOff")
        disks = [
            LeasedDisk(
                disk.spec.key,
                disk.spec.label,
                disk.spec.size,
                disk.live,
                f"{machine.moid}/{disk.spec.key}",
                f"disk-{number}.vmdk",
                disk.spec.slot,
            )
            for number, disk in enumerate(machine.disks)
        ]
        return self._open(call, machine, disks)

    def find(self, ticket: str, name: str) -> LeasedDisk | None:
        """Return the disk of a download URL if its lease is ready."""
        for lease in self:
            if lease.ticket == ticket and lease.state == "ready":
                return next((disk for disk in lease.disks if disk.name == name), None)
        return None

    def _open(self, call: MethodCall, machine: SimulatedMachine, disks: list[LeasedDisk]) -> Any:
        task, other = self._site.tasks.active(machine), self.of(machine)
        if task or other:
            raise Fault(
                "vim.fault.TaskInProgress",
                "Another task is already in progress.",
                task=task.ref if task else MoRef("vim.Task", "task-0"),
            )
        lease = Lease(self._site, call.caller, machine, disks)
        self._all = [*self, lease]
        seconds = self._site.world.knobs.task.seconds
        if seconds:
            threading.Thread(target=self._prepare, args=(lease, seconds), daemon=True).start()
        else:
            lease.make_ready()
        return lease.object

    def _prepare(self, lease: Lease, seconds: float) -> None:
        self._site.world.pause(seconds)
        with self._site.world.changing():
            lease.make_ready()
