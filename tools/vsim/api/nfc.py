"""NfcService: one-shot tickets for the NFC server, and what the server counts."""

import threading
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

from tools.vsim.api.base import ClientSession, ManagedObject, MethodCall, Site
from tools.vsim.fault import Fault, MoRef, invalid_argument, not_found
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.soap.nfc import FILES, READ, WRITE, NfcServiceKind, RawResult
from tools.vsim.soap.vmodl import vim

COUNTS: Final = (
    "tickets_issued", "tickets_spent", "tickets_refused", "connections", "sessions", "opened",
    "closed", "reads", "read_bytes", "fragments", "sent_bytes", "allocated", "ddb",
    "refused_opens", "over_budget", "tag_differences",
)  # fmt: skip
INTERNAL: Final = (
    ("agentManager", "AgentManager"), ("diagnosticsManager", "InternalDiagnosticsManager"),
    ("internalStatsCollector", "InternalStatsCollector"), ("ftManager", "FaultToleranceManager"),
    ("storageService", "InternalStorageService"), ("llProvisioningManager",
    "HostLowLevelProvisioningManager"), ("proxyService", "ProxyService"),
)  # fmt: skip
"""References beside nfcService that clients must skip."""


@dataclass(frozen=True, slots=True)
class NfcAddress:
    """The address of an NFC server, and its certificate."""

    host: str
    port: int
    thumbprint: str  # SHA-1
    pem: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A right to read one machine, or one of its disks."""

    machine: str  # id
    host: str  # name of the host that serves the machine
    key: int | None  # device key; None: all disks
    is_writable: bool
    session: ClientSession
    issued: float  # time of the simulator's clock


class NfcTickets:
    """Tickets and counters of the NFC server. Thread-safe."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self.counts: Counter[str] = Counter()
        self.largest: dict[str, int] = {}
        self.open_disks = 0
        self.addresses: dict[str, NfcAddress] = {}  # by host; empty name: the common server

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self.counts[name] += amount

    def note_open(self, change: int) -> None:
        """Count disks that are open now."""
        with self._lock:
            self.open_disks += change
            self.counts["opened" if change > 0 else "closed"] += 1
            self.largest["open_disks"] = max(self.largest.get("open_disks", 0), self.open_disks)

    def note_largest(self, name: str, value: int) -> None:
        """Keep the largest value of a quantity."""
        with self._lock:
            self.largest[name] = max(self.largest.get(name, 0), value)

    def report(self, clear: bool) -> dict[str, int]:
        """Return all counters; *clear* sets them to 0, except the disks open now."""
        with self._lock:
            document = {name: self.counts[name] for name in COUNTS}
            document["open_disks"] = self.open_disks
            document["most_open_disks"] = self.largest.get("open_disks", 0)
            document["most_requests"] = self.largest.get("requests", 0)
            document["most_bytes"] = self.largest.get("bytes", 0)
            if clear:
                self.counts.clear()
                self.largest.clear()
            return document

    def issue(self, ticket: Ticket) -> str:
        """Return the token of a new ticket."""
        token = str(uuid.uuid4())
        with self._lock:
            self._tickets[token] = ticket
            self.counts["tickets_issued"] += 1
        return token

    @property
    def port(self) -> int:
        """Port of the common server."""
        return self.addresses[""].port

    def address(self, host: str) -> NfcAddress:
        """Return the address of the server of a host."""
        return self.addresses.get(host) or self.addresses[""]

    def redeem(self, token: str, server: str) -> Ticket | None:
        """Return the ticket and forget it.

        None if it is spent, unknown or too old, and if its machine is on a host that *server*, the
        name of a host or empty, does not serve.
        """
        limit = self._site.world.knobs.nfc.ticket_seconds
        now = self._site.world.monotonic()
        with self._lock:
            ticket = self._tickets.pop(token, None)
            if ticket is not None and limit and now - ticket.issued > limit:
                ticket = None
            if ticket is not None and not self._serves(server, ticket):
                ticket = None
            self.counts["tickets_spent" if ticket else "tickets_refused"] += 1
            return ticket

    def _serves(self, server: str, ticket: Ticket) -> bool:
        world = self._site.world
        if ticket.machine not in world.folders:
            return True  # the disks of the machine cannot be opened
        name = world.host_of(ticket.machine).name
        return name == ticket.host and server == (name if name in self.addresses else "")


class NfcService(ManagedObject):
    """The service that gives tickets; its id differs between vCenter and ESXi."""

    kind = NfcServiceKind

    def NfcGetVmFiles(self, call: MethodCall, vm: str) -> Any:
        machine = self._machine(vm)
        return self._ticket(call, machine, None, writable=False)

    def NfcRandomAccessOpenReadonly(
        self, call: MethodCall, vm: str, diskDeviceKey: int, hostForAccess: str | None
    ) -> Any:
        return self._of_disk(call, vm, diskDeviceKey, hostForAccess, writable=False)

    def NfcRandomAccessOpenDisk(
        self, call: MethodCall, vm: str, diskDeviceKey: int, hostForAccess: str | None
    ) -> Any:
        return self._of_disk(call, vm, diskDeviceKey, hostForAccess, writable=True)

    def NfcGetServerNfcLibVersion(self, call: MethodCall, hostForAccess: str | None) -> int:
        self._require_host(hostForAccess)
        return self.site.world.knobs.nfc.library

    def _of_disk(
        self, call: MethodCall, vm: str, key: int, host: str | None, *, writable: bool
    ) -> Any:
        machine = self._machine(vm)
        if host is not None and host != self.site.host_of(MoRef("vim.VirtualMachine", vm))._moId:
            raise invalid_argument("hostForAccess")
        keys = {disk.spec.key for disk in machine.disks}
        keys |= {state.spec.key for held in machine.snapshots for state in held.disks}
        if key not in keys:
            raise invalid_argument("diskDeviceKey")
        return self._ticket(call, machine, key, writable=writable)

    def _require_host(self, moid: str | None) -> None:
        if moid is None:
            raise invalid_argument("hostForAccess")
        target = self.site.find(moid, None)
        if target is None or target.kind is not vim.HostSystem:
            raise not_found(moid, "vim.HostSystem")

    def _machine(self, vm: str | None) -> SimulatedMachine:
        if vm is None:
            raise invalid_argument("vm")
        machine = self.site.world.machines.get(vm)
        if machine is None:
            raise not_found(vm, "vim.VirtualMachine")
        return machine

    def _ticket(
        self, call: MethodCall, machine: SimulatedMachine, key: int | None, *, writable: bool
    ) -> Any:
        world, knobs, nfc = self.site.world, self.site.world.knobs.nfc, self.site.nfc
        for privilege in (FILES, WRITE if writable else READ):
            call.caller.require(privilege, MoRef("vim.VirtualMachine", machine.moid))
        host = world.host_of(machine.moid)
        if host.connection != "connected":
            raise Fault("vim.fault.HostNotConnected", "The host is not connected.")
        if host.maintenance:
            raise Fault("vim.fault.InvalidState", "The host is in maintenance mode.")
        ticket = Ticket(machine.moid, host.name, key, writable, call.caller, world.monotonic())
        address = nfc.address(host.name)
        answer = vim.HostServiceTicket(
            port=address.port,
            service="vpxa-nfc" if world.is_vcenter else "nfc",
            serviceVersion="1.1",
            sessionId=nfc.issue(ticket),
        )
        if world.is_vcenter and knobs.host:
            answer.host = address.host
        if knobs.pin == "thumbprint":
            answer.sslThumbprint = address.thumbprint
        elif knobs.pin == "wrong":
            answer.sslThumbprint = ":".join(reversed(address.thumbprint.split(":")))
        elif knobs.pin == "certificate":
            answer.sslCertificate = address.pem
        return answer


def internal_content(service: ManagedObject) -> RawResult:
    """Return the answer of RetrieveInternalContent as XML."""
    references = [*INTERNAL[:4], ("nfcService", "NfcService"), *INTERNAL[4:]]
    moids = {"nfcService": service.moid}
    listed = "".join(
        f'<{name} type="{kind}">{escape(moids.get(name, f"internal-{name}"))}</{name}>'
        for name, kind in references
    )
    return RawResult(f"<returnval>{listed}</returnval>")
