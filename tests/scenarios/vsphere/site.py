"""A simulated site with a repository, for tests of vSphere ingests."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from cbtfs.core.manifest import Manifest
from cbtfs.ingest.checkpoints import CHECKPOINT_SECONDS
from cbtfs.ingest.fleet.pool import Results, Rules, run_all
from cbtfs.ingest.fleet.schedule import FleetLimits
from cbtfs.ingest.inputs import OnDisk, no_progress
from cbtfs.ingest.vsphere.attempt import attempt, goes_again
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.options import IngestOptions, VmIngestResult
from cbtfs.ingest.vsphere.vm import ingest_machine
from cbtfs.source.nbd import NbdLimits
from cbtfs.source.secret import Secret
from cbtfs.source.transport.base import Transport
from cbtfs.source.transport.datastore import DatastoreTransport
from cbtfs.source.transport.httpnfc.transport import HttpNfcTransport
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.transport.nfc.transport import NfcTransport
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy
from cbtfs.source.vsphere.connect.session import Credentials, Session
from cbtfs.source.vsphere.connect.tls import verifying
from cbtfs.source.vsphere.inventory.vms import ListedVm, list_vms, select
from cbtfs.source.vsphere.snapshots.export_lease import open_lease
from cbtfs.store.pack import PACK_BYTES
from cbtfs.store.repository import writing
from tests.make_points import new_repository, read_point
from tests.scenarios.vsphere.vddk import by_vddk
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator

MIB: Final = 1 << 20
VM: Final = "web1"
FIRST, SECOND = 2000, 2001
QUICK: Final = RetryPolicy(
    reply=20.0,
    poll=1,
    task=20.0,
    connection=(0.0, 0.0),
    away=0.0,
    busy=(0.0, 0.0, 0.0),
    lease=0.0,
    quiesce=(0.0, 0.0),
)
"""The usual number of retries, without pauses."""
QUICK_NBD: Final = NbdLimits(seconds=20.0, pauses=(0.0, 0.0))

MakeTransport = Callable[[Simulator, Session], Transport]


def by_datastore(sim: Simulator, session: Session) -> Transport:
    return DatastoreTransport(session.web())


def by_nbd(sim: Simulator, session: Session) -> Transport:
    return NbdTransport(sim.nbd_uri + "{vm}/{snapshot}/{key}", QUICK_NBD)


def by_nfc(sim: Simulator, session: Session) -> Transport:
    return NfcTransport(session.web())


def by_httpnfc(sim: Simulator, session: Session) -> Transport:
    return HttpNfcTransport(session.web(), partial(open_lease, session))


TRANSPORTS: Final[Mapping[str, MakeTransport]] = {
    "datastore": by_datastore,
    "nbd": by_nbd,
    "nfc": by_nfc,
    "vddk": by_vddk,
}
"""Transports that read any extent of a disk; `httpnfc` exports whole disks only."""


def one_vm(*disks: DiskEntry, **parts: Any) -> Inventory:
    """Return an inventory with one running VM with two small disks, or with *disks*."""
    default = (DiskEntry(size=2 * MIB), DiskEntry(size=MIB))
    return Inventory(machines=(MachineEntry(VM, disks=disks or default, **parts),))


@dataclass
class Lab:
    """A site, a repository, and ingests of the VMs into the repository."""

    sim: Simulator
    repository: Path
    make_transport: MakeTransport = by_datastore
    retry_policy: RetryPolicy = QUICK
    points: list[Manifest] = field(default_factory=list)
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    pack_bytes: int = PACK_BYTES

    @contextmanager
    def session(self, stop: threading.Event | None = None) -> Iterator[Session]:
        address = Address(self.sim.host, self.sim.port)
        tls = verifying(self.sim.certificate.certificate)
        credentials = Credentials(self.sim.user.name, Secret(self.sim.user.password))
        with Session(address, tls, credentials, self.retry_policy, stop) as session:
            yield session

    def ingest(
        self,
        name: str = VM,
        *,
        on_disk: OnDisk = no_progress,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> VmIngestResult:
        """Log in, take one point of a VM, and log out."""
        with self.context(on_disk=on_disk, stop=stop, **options) as context:
            (vm,) = select(list_vms(context.session), name)
            outcome = ingest_machine(context, vm)
        self.points.append(outcome.manifest)
        return outcome

    def ingest_with_nbd(self) -> VmIngestResult:
        """Take a point by a transport that accepts other snapshots of the VM."""
        kept, self.make_transport = self.make_transport, by_nbd
        try:
            return self.ingest()
        finally:
            self.make_transport = kept

    def ingest_all(
        self, *names: str, jobs: int = 2, **options: Any
    ) -> Results[ListedVm, VmIngestResult]:
        with self.context(**options) as context:
            listed = list_vms(context.session)
            vms = [vm for name in names for vm in select(listed, name)]
            rules: Rules[ListedVm, VmIngestResult] = Rules(
                FleetLimits(jobs, None, None),
                goes_again=lambda vm, error: goes_again(context, vm, error),
            )
            return run_all(vms, lambda vm: attempt(context, vm), context.stop, rules)

    @contextmanager
    def context(
        self,
        *,
        on_disk: OnDisk = no_progress,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> Iterator[IngestContext]:
        stop = stop or threading.Event()
        with writing(self.repository) as repository, self.session(stop) as session:
            objects = repository.object_writer(self.pack_bytes)
            try:
                yield IngestContext(
                    repository,
                    objects,
                    session,
                    [self.make_transport(self.sim, session)],
                    IngestOptions(**options),
                    stop,
                    on_disk,
                    self.checkpoint_seconds,
                )
            finally:
                objects.close()

    def write(self, offset: int, data: bytes, disk: int = FIRST, vm: str = VM) -> None:
        self.sim.do.write(vm, disk, offset, data)

    def snapshots(self, vm: str = VM) -> list[str]:
        """Return the names of the VM's snapshots."""
        document = next(listed for listed in self.sim.do.vms() if listed["name"] == vm)
        return [snapshot["name"] for snapshot in document["snapshots"]]

    def truth(self, manifest: Manifest, disk: Mapping[str, Any]) -> bytes:
        """Return the raw image of the disk at the point's snapshot, from the simulator."""
        moref: str = manifest.metadata["snapshot"]["moref"]
        return (self.sim.state / "snapshots" / moref / f"{disk['key']}.raw").read_bytes()

    def images(self, manifest: Manifest) -> Mapping[str, bytes]:
        """Return the content of the disks of a point by label."""
        virtual = {disk.label for disk in manifest.of_kind("disk")}
        everything = read_point(self.repository, manifest)
        return {label: image for label, image in everything.items() if label in virtual}

    def assert_true(self, manifest: Manifest) -> None:
        """Assert that every disk of the point equals the snapshot disk, byte for byte."""
        images = self.images(manifest)
        disks = manifest.metadata["disks"]
        captured = [disk for disk in disks if disk["label"] in images]

        assert len(captured) == len(images) > 0
        for disk in captured:
            assert images[disk["label"]] == self.truth(manifest, disk), disk["label"]

    def assert_all_true(self) -> None:
        for manifest in self.points:
            self.assert_true(manifest)

    def run_records(self) -> list[str]:
        folder = self.repository / "locks" / "runs"
        return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []

    def assert_clean(self, vm: str = VM) -> None:
        """Assert that neither snapshots nor records of runs are left."""
        assert self.snapshots(vm) == []
        assert self.run_records() == []


def reasons(manifest: Manifest) -> dict[str, str]:
    return {disk.label: disk.reason for disk in manifest.of_kind("disk")}


def kinds(manifest: Manifest) -> list[str]:
    return [disk.ingest for disk in manifest.of_kind("disk")]


def new_lab(sim: Simulator, folder: Path, make_transport: MakeTransport = by_datastore) -> Lab:
    """Return a site that keeps the images of snapshots, to compare points with them later."""
    sim.knobs.change("snapshot", keep_truth=True)
    return Lab(sim, new_repository(folder / "repository"), make_transport)


def names_of(vms: Sequence[ListedVm]) -> list[str]:
    return [vm.name for vm in vms]
