"""HttpNfcLease: the disks of a snapshot, or of a machine that is off, for download by URL.

While a lease is held no task may change its machine. A lease whose holder tells no progress for
`data.lease_seconds` is over.
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
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.soap.vmodl import long, managed_object, method_fault, vim

HELD = ("initializing", "ready")


@dataclass(frozen=True, slots=True)
class LeasedDisk:
    """One disk that can be downloaded."""

    key: int
    label: str
    size: int
    image: Path
    export: str  # what rules for reads call it
    name: str  # the last part of its URL


class Lease(SessionObject):
    """One export."""

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
        self._told = site.world.monotonic()
        session.objects[self.moid] = self

    def end(self) -> None:
        """The session is over, and with it the lease."""
        self._fail(Fault("vim.fault.NotAuthenticated", "The session is over."))

    def make_ready(self) -> None:
        if self.state == "initializing":
            self.state = "ready"
            self._told = self.site.world.monotonic()

    def look(self) -> None:
        """Find out whether nobody told of progress for too long."""
        seconds = self.site.world.knobs.data.lease_seconds
        if self.state == "ready" and self.site.world.monotonic() - self._told > seconds:
            self._fail(Fault("vim.fault.Timedout", "The lease has timed out."))

    def properties(self) -> Properties:
        self.look()
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
            self._told = self.site.world.monotonic()

    def HttpNfcLeaseComplete(self, call: MethodCall) -> None:
        self._require_ready()
        with self.site.world.changing():
            self.state = "done"

    def HttpNfcLeaseAbort(self, call: MethodCall, fault: Any) -> None:
        self.look()
        if self.state in HELD:
            with self.site.world.changing():
                self._fail(Fault("vmodl.fault.RequestCanceled", "The lease was aborted."))

    def _require_ready(self) -> None:
        self.look()
        if self.state != "ready":
            if self.error and self.error.name == "vim.fault.Timedout":
                raise self.error
            raise Fault("vim.fault.InvalidState", f"The lease is {self.state}.")

    def _fail(self, error: Fault) -> None:
        if self.state in HELD:
            self.state, self.error = "error", error

    def _info(self) -> Any:
        host = "*" if self.site.world.knobs.data.lease_star else self.site.host
        urls = [
            vim.HttpNfcLease.DeviceUrl(
                key=f"/{self.machine.moid}/{disk.key}",
                importKey=f"/{self.machine.spec.name}/{disk.key}",
                url=f"{self.site.scheme}://{host}:{self.site.port}/nfc/{self.ticket}/{disk.name}",
                sslThumbprint=self.site.thumbprint,
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
    """All leases. The world's lock covers the methods."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._all: list[Lease] = []

    def __iter__(self) -> Iterator[Lease]:
        for lease in self._all:
            lease.look()
        return iter([lease for lease in self._all if lease.state in HELD])

    def of(self, machine: SimulatedMachine) -> Lease | None:
        """The lease that keeps a machine as it is."""
        return next((lease for lease in self if lease.machine is machine), None)

    def require_none(self, machine: SimulatedMachine) -> None:
        """Raise InvalidState while the machine is exported."""
        if self.of(machine):
            raise Fault(
                "vim.fault.InvalidState",
                "The operation is not allowed in the current state: the machine is exported.",
            )

    def export_snapshot(
        self, call: MethodCall, machine: SimulatedMachine, snapshot: Snapshot
    ) -> Any:
        disks = [
            LeasedDisk(
                frozen.spec.key,
                frozen.spec.label,
                frozen.spec.size,
                frozen.truth,
                f"{machine.moid}/{snapshot.moid}/{frozen.spec.key}",
                f"disk-{number}.vmdk",
            )
            for number, frozen in enumerate(snapshot.disks)
            if frozen.truth
        ]
        return self._open(call, machine, disks)

    def export_machine(self, call: MethodCall, machine: SimulatedMachine) -> Any:
        """Of a machine that is off: its disks as they are."""
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
            )
            for number, disk in enumerate(machine.disks)
        ]
        return self._open(call, machine, disks)

    def find(self, ticket: str, name: str) -> LeasedDisk | None:
        """What a URL leads to; only while its lease is ready."""
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
