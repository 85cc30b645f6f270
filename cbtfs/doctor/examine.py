"""Examine a server and its VMs; the number of calls hardly depends on the number of VMs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cbtfs.doctor.environment import of_clock, of_datastore, of_host, of_library, of_nbdkit
from cbtfs.doctor.finding import Finding, Severity, is_blocked, most_severe_first
from cbtfs.doctor.reach import unreachable_endpoints
from cbtfs.doctor.state import of_state
from cbtfs.doctor.transport import (
    NO_TRANSPORT,
    TransportChoice,
    choose_transport,
    of_privileges,
    of_transport,
)
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import Transport
from cbtfs.source.vsphere.cbt.readiness import enabling_obstacle
from cbtfs.source.vsphere.cbt.tracking import tracking_of
from cbtfs.source.vsphere.connect.privileges import Lacking, lacking
from cbtfs.source.vsphere.connect.role import Use
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts, not_in_snapshots
from cbtfs.source.vsphere.inventory.hosts import HostState, load_hosts
from cbtfs.source.vsphere.inventory.machine import (
    DatastoreFacts,
    Machine,
    NotConnected,
    load_datastores,
    load_machines,
)
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot_disk import SnapshotLocation, transport_disks
from cbtfs.source.vsphere.snapshots.stun import without_stuns


@dataclass(frozen=True, slots=True)
class Exam:
    """Parameters of an examination."""

    transports: Sequence[Transport]
    """Transports that an ingest would try, in order."""
    libdir: Path
    """Directory of VMware's library."""
    https_port: int = 443
    """HTTPS port of the hosts; summary.config.port is another one, that of the vCenter agent."""
    nfc_port: int = 902
    """Port of the hosts from which VMware's library reads disks."""
    seconds: float = 3.0
    """Timeout of one connection."""


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """The findings of a host or a datastore."""

    id: str
    name: str
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class VmReport:
    """The findings of one VM."""

    vm: ListedVm
    host: str | None
    datastores: list[str]
    choice: TransportChoice
    findings: list[Finding]
    blocked_by: list[str]
    """The objects whose findings block the VM: `vm`, `server`, `host NAME`, `datastore NAME`."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All findings of an examination."""

    server: list[Finding]
    hosts: list[ObjectReport]
    datastores: list[ObjectReport]
    vms: list[VmReport]


def examine(session: Session, vms: Sequence[ListedVm], exam: Exam) -> DoctorReport:
    """Return the obstacles to the backup of *vms*; raise SourceUnavailable or AccessDenied."""
    server_time, here = session.now(), datetime.now(UTC)
    states = load_machines(session, vms)
    machines = [state for state in states.values() if isinstance(state, Machine)]
    infrastructure = _Infrastructure(session, machines, exam)
    on_vms = lacking(session, [vm.id for vm in vms], "vm")
    examiner = _VmExaminer(session, exam, infrastructure, on_vms, server_time)
    examined_vms = [examiner.examine(vm, states[vm.id]) for vm in vms]
    by_library = any(examined.choice.is_by_library for examined in examined_vms)
    server = [
        *of_clock(server_time, here),
        *infrastructure.on_root({use for examined in examined_vms for use in examined.choice.uses}),
        of_library(exam.libdir),
        of_nbdkit(),
    ]
    read_hosts = {examined.host for examined in examined_vms if examined.choice.is_by_library}
    hosts = infrastructure.host_reports(read_hosts)
    stores = infrastructure.store_reports(examined_vms)
    is_server_blocking = by_library and is_blocked(server)
    reports = [
        examined.report(
            hosts.get(examined.host or ""),
            [stores[store] for store in examined.stores if store in stores],
            is_server_blocking=is_server_blocking and examined.choice.is_by_library,
        )
        for examined in examined_vms
    ]
    return DoctorReport(
        most_severe_first(server), list(hosts.values()), list(stores.values()), reports
    )


@dataclass(frozen=True, slots=True)
class _ExaminedVm:
    """The findings of a VM without those of its host and datastores."""

    vm: ListedVm
    findings: list[Finding]
    host: str | None = None
    stores: list[str] = field(default_factory=list)
    choice: TransportChoice = NO_TRANSPORT

    def report(
        self, host: ObjectReport | None, stores: Sequence[ObjectReport], *, is_server_blocking: bool
    ) -> VmReport:
        blocked_by = ["vm"] if is_blocked(self.findings) else []
        if is_server_blocking:
            blocked_by.append("server")
        if host is not None and any(self._is_blocked_by(finding) for finding in host.findings):
            blocked_by.append(f"host {host.name}")
        blocked_by += [
            f"datastore {store.name}"
            for store in stores
            if any(self._is_blocked_by(finding) for finding in store.findings)
        ]
        return VmReport(
            self.vm,
            None if host is None else host.name,
            [store.name for store in stores],
            self.choice,
            most_severe_first(self.findings),
            blocked_by,
        )

    def _is_blocked_by(self, finding: Finding) -> bool:
        """Return whether a finding of a host or a datastore blocks this VM.

        A closed port, or a missing privilege on a datastore, blocks only the VMs that use it.
        """
        if finding.severity is not Severity.BLOCKS:
            return False
        if finding.check == "port":
            return self.choice.is_by_library
        return finding.check != "privilege" or "datastore" in self.choice.uses


class _Infrastructure:
    """The hosts and datastores of all VMs, each queried once."""

    def __init__(self, session: Session, machines: Sequence[Machine], exam: Exam) -> None:
        self._exam = exam
        self._user = session.user
        host_ids = {machine.host_id for machine in machines if machine.host_id}
        self._hosts = load_hosts(session, host_ids)
        disks = [disk for machine in machines for disk in machine.disks]
        ids = {disk.datastore for disk in disks if disk.datastore is not None}
        self.stores: Mapping[str, DatastoreFacts] = load_datastores(session, ids)
        root = str(session.content.rootFolder._moId)
        self._on_root = lacking(session, [root], "root").get(root, frozenset())
        self._on_stores: Lacking = lacking(session, sorted(ids), "datastore")
        self._closed = unreachable_endpoints(
            {
                (host.name, port)
                for host in self._hosts.values()
                if host.name is not None
                for port in (exam.https_port, exam.nfc_port)
            },
            exam.seconds,
        )

    def on_root(self, uses: set[Use]) -> Iterator[Finding]:
        yield from of_privileges(self._on_root, frozenset(uses), self._user, "the root folder")

    def host_reports(self, read: set[str | None]) -> dict[str, ObjectReport]:
        """Return reports by managed object id; VMware's library reads from the hosts *read*."""
        return {
            key: ObjectReport(key, host.name or key, self._of_host(host, is_read=key in read))
            for key, host in self._hosts.items()
        }

    def _of_host(self, host: HostState, *, is_read: bool) -> list[Finding]:
        name = host.name or ""
        ports = (self._exam.https_port, self._exam.nfc_port)
        closed = [(port, why) for port in ports if (why := self._closed.get((name, port)))]
        return most_severe_first(of_host(host, dict(closed), *ports, is_read=is_read))

    def store_reports(self, examined_vms: Sequence[_ExaminedVm]) -> dict[str, ObjectReport]:
        read = {
            store
            for examined in examined_vms
            if "datastore" in examined.choice.uses
            for store in examined.stores
        }
        reports = {}
        for key, store in self.stores.items():
            uses: frozenset[Use] = frozenset({"datastore"} if key in read else ())
            lacks = self._on_stores.get(key, frozenset())
            findings = [
                *of_datastore(store),
                *of_privileges(lacks, uses, self._user, f"the datastore {store.name}"),
            ]
            reports[key] = ObjectReport(key, store.name or key, most_severe_first(findings))
        return reports


class _VmExaminer:
    """Examines VMs with data that was queried before."""

    def __init__(
        self,
        session: Session,
        exam: Exam,
        infrastructure: _Infrastructure,
        lacks: Lacking,
        now: datetime,
    ) -> None:
        self._session = session
        self._exam = exam
        self._infrastructure = infrastructure
        self._lacks = lacks
        self._now = now

    def examine(self, vm: ListedVm, state: Machine | SourceUnavailable) -> _ExaminedVm:
        if isinstance(state, NotConnected):
            text = f"its state is {state.state}"
            return _ExaminedVm(vm, [Finding("connection", Severity.BLOCKS, text, state.advice)])
        if isinstance(state, SourceUnavailable):
            return _ExaminedVm(
                vm, [Finding("connection", Severity.BLOCKS, str(state), "try again")]
            )
        after = without_stuns(state)
        disks = [disk for disk in after.disks if not_in_snapshots(disk) is None]
        choice = self._choose(vm, after, disks) if disks else NO_TRANSPORT
        uses = choice.uses | _switches(after)
        findings = [
            *of_state(state, self._now),
            *of_transport(choice),
            *of_privileges(
                self._lacks.get(vm.id, frozenset()),
                uses,
                self._session.user,
                "the VM or an object above it",
            ),
        ]
        stores = sorted({disk.datastore for disk in disks if disk.datastore is not None})
        return _ExaminedVm(vm, findings, state.host_id, stores, choice)

    def _choose(
        self, vm: ListedVm, machine: Machine, disks: Sequence[DiskFacts]
    ) -> TransportChoice:
        location = SnapshotLocation(
            vm.id, "", vm.datacenter, is_alone=not machine.snapshots, host=machine.host_id
        )
        # The first ingest reads whole disks; doctor does not look for earlier points.
        whole = {disk.identity for disk in disks}
        described = transport_disks(location, disks, self._infrastructure.stores, whole)
        lacks = self._lacks.get(vm.id, frozenset())
        return choose_transport(self._exam.transports, list(described.values()), lacks)


def _switches(machine: Machine) -> frozenset[Use]:
    """Return the groups of privileges for the changes that an ingest would make to the VM."""
    if not machine.can_track:
        return frozenset({"upgrade"})
    if not machine.is_tracking:
        return frozenset({"enable"} if enabling_obstacle(machine) is None else ())
    has_setting_off = any(disk.switch is False for disk in tracking_of(machine).missing)
    return frozenset({"setting"} if has_setting_off else ())
