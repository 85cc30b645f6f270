"""Random life of one VM on a simulated site; every point is compared with its snapshot."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import note

from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.options import IngestOptions
from cbtfs.ingest.vsphere.vm import ingest_machine
from cbtfs.source.transport.base import Transport
from cbtfs.source.transport.datastore import DatastoreTransport
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.transport.nfc.transport import NfcTransport
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import list_vms, select
from cbtfs.store.repository import writing
from tests.ingest.audit.silent_tracker import listed, suspects
from tests.ingest.fake_disks import forget, lose_catalog
from tests.make_points import BLOCK, new_repository, read_point
from tests.scenarios.vsphere.chances import KEYS, SIZES, Event, Start
from tests.scenarios.vsphere.site import QUICK_NBD
from tools.vsim import Simulator
from tools.vsim.fault import Fault


@dataclass
class Site:
    """A simulator and a login that many histories share; each history adds a VM."""

    sim: Simulator
    session: Session
    folder: Path
    histories: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Counts of ingests by kind, of resumed runs and of errors, to show the coverage."""


def take_point(
    site: Site, name: str, repository: Path, options: IngestOptions, *, by: str = "nbd"
) -> Manifest:
    """Open the repository and take one point of the VM with that name."""
    transport: Transport = NbdTransport(site.sim.nbd_uri + "{vm}/{snapshot}/{key}", QUICK_NBD)
    if by == "datastore":
        transport = DatastoreTransport(site.session.web())
    elif by == "nfc":
        transport = NfcTransport(site.session.web())
    with writing(repository) as opened:
        objects = opened.object_writer()
        try:
            context = IngestContext(
                opened, objects, site.session, [transport], options, checkpoint_seconds=0.0
            )
            (vm,) = select(list_vms(site.session), name)
            return ingest_machine(context, vm).manifest
        finally:
            objects.close()


def wrong_blocks(site: Site, repository: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Return the blocks that differ from the snapshot disk, by label of the disk."""
    moref = manifest.metadata["snapshot"]["moref"]
    keys = {disk["label"]: disk["key"] for disk in manifest.metadata["disks"]}
    images = read_point(repository, manifest)
    wrong = {}
    for label in (disk.label for disk in manifest.of_kind("disk")):
        image = images[label]
        truth = (site.sim.state / "snapshots" / moref / f"{keys[label]}.raw").read_bytes()
        assert len(image) == len(truth)
        starts = range(0, len(truth), BLOCK)
        wrong[label] = [
            at // BLOCK for at in starts if image[at : at + BLOCK] != truth[at : at + BLOCK]
        ]
    return wrong


class History:
    """One VM and one repository. The methods are the events of `chances`."""

    def __init__(self, site: Site, start: Start) -> None:
        site.histories += 1
        self.site, self.do = site, site.sim.do
        self.name = f"vm{site.histories}"
        self.folder = site.folder / self.name
        self.folder.mkdir()
        self.repository = new_repository(self.folder / "repository", start.block_size)
        self.unmap_unit = start.unmap_unit
        self.points: list[Manifest] = []
        self.foreign: list[str] = []
        """Names of foreign snapshots."""
        self.count = 0
        self.transport = start.transport
        # NFC reports the allocation of 64 KiB, but a discard may be smaller.
        self.lists_discards = start.lists_discards or self.transport != "nbd"
        self.behave()
        site.sim.knobs.change("cbt", **start.knobs)
        disks = [{"size": size, "label": f"disk of {size}"} for size in SIZES]
        self.moid = self.do.add_vm({"name": self.name, "cbt": start.is_tracking, "disk": disks})
        for key, size in zip(KEYS, SIZES, strict=True):
            self.write(key, 0, size // 2)

    def live(self, days: Sequence[Sequence[Event]]) -> None:
        """Play all events, then take a full from a server without faults; verify all points."""
        for day in days:
            for name, arguments in day:
                getattr(self, name)(**arguments)
        self.behave()
        if self.transport == "datastore":  # which refuses a VM with foreign snapshots
            self.transport = "nbd"
        for key in self.disks():
            self.do.set_disk_cbt(self.name, key)
        last = self.take(IngestOptions(want="full", audit=Sampling(1.0)))

        assert last is not None
        for manifest in self.points:
            self.assert_true(manifest)
        assert suspects(self.repository) == set()  # no correct point is suspect

    def end(self) -> None:
        """Remove everything of this history."""
        self.do.reset_knobs()
        self.do.forget_tasks()
        self.do.calls(clear=True)
        self.do.remove_vm(self.moid)
        state = self.site.sim.state
        snapshots = (state / "snapshots").iterdir()
        for directory in (state / "disks" / self.moid, *snapshots, self.folder):
            shutil.rmtree(directory)

    # the guest

    def write(self, key: int, offset: int, length: int) -> None:
        self.count += 1
        data = random.Random(self.count).randbytes(length)
        self._in_disk(key, offset, length, lambda a, n: self.do.write(self.name, key, a, data[:n]))

    def write_zeros(self, key: int, offset: int, length: int) -> None:
        self._in_disk(key, offset, length, lambda a, n: self.do.write(self.name, key, a, bytes(n)))

    def trim(self, key: int, offset: int, length: int) -> None:
        self._in_disk(key, offset, length, lambda a, n: self.do.discard(self.name, key, a, n))

    def _in_disk(self, key: int, offset: int, length: int, act: Callable[[int, int], None]) -> None:
        size = self.disks().get(key, 0)
        if size:
            start = offset % size
            act(start, min(length, size - start))

    # the administrator

    def power(self, state: str) -> None:
        with suppress(Fault):
            self.do.power(self.name, state)

    def switch_tracking(self, enabled: bool, stun: bool) -> None:
        with suppress(Fault):
            self.do.set_cbt(self.name, enabled)
        if stun:
            self.do.stun(self.name)

    def reset_tracking(self, key: int) -> None:
        with suppress(LookupError):
            self.do.reset_tracking(self.name, key)

    def migrate(self, store: str, key: int | str) -> None:
        with suppress(LookupError):
            self.do.relocate(self.name, store, key)

    def migrate_host(self) -> None:
        self.do.stun(self.name)

    def grow(self, key: int, more: int) -> None:
        with suppress(Fault, KeyError):
            self.do.grow_disk(self.name, key, self.disks()[key] + more)

    def restore_into(self, key: int, offset: int) -> None:
        data = random.Random(offset).randbytes(5000)
        with suppress(Fault):
            self._in_disk(
                key,
                offset,
                len(data),
                lambda a, n: self.do.restore_disk(self.name, key, a, data[:n]),
            )

    def exchange_a_disk(self, is_added: bool) -> None:
        if KEYS[1] in self.disks():
            self.do.remove_disk(self.name, KEYS[1])
        if is_added:
            self.do.add_disk(self.name, {"size": SIZES[1], "slot": "scsi0:1", "label": "added"})

    def wait(self, days: int) -> None:
        self.do.advance(days * 86400)

    # foreign snapshots

    def snapshot(self) -> None:
        self.count += 1
        with suppress(Fault):
            self.do.snapshot(self.name, f"{self.name}-foreign-{self.count}")
        self._look_for_snapshots()

    def remove_snapshot(self, which: int) -> None:
        if self.foreign:
            self.do.remove_snapshot(self.foreign.pop(which % len(self.foreign)))

    def remove_snapshots(self) -> None:
        while self.foreign:
            self.remove_snapshot(0)

    def revert(self, which: int) -> None:
        if self.foreign:
            self.do.revert(self.foreign[which % len(self.foreign)])

    def try_and_revert(self, key: int, offset: int, length: int, how: str) -> None:
        """Take a snapshot, write, revert to the snapshot and remove it."""
        before = len(self.foreign)
        self.snapshot()
        if len(self.foreign) > before:
            self.write(key, offset, length)
            self.site.sim.knobs.change("cbt", revert=how)
            self.revert(-1)
            self.remove_snapshot(-1)
            self.write(key, offset + length, length)

    def _look_for_snapshots(self) -> None:
        names = [entry["name"] for entry in self._machine()["snapshots"]]
        self.foreign = [name for name in names if not name.startswith("cbtfs-")]

    # the server

    def turn_knobs(self, group: str, knobs: dict[str, Any]) -> None:
        if not self.lists_discards:
            knobs = {name: value for name, value in knobs.items() if name != "holes"}
        self.site.sim.knobs.change(group, **knobs)

    def turn_knobs_of_one_disk(self, key: int, knobs: dict[str, Any]) -> None:
        with suppress(LookupError):
            self.do.set_disk_cbt(self.name, key, **knobs)

    def behave(self) -> None:
        self.do.reset_knobs()
        self.site.sim.knobs.change("snapshot", keep_truth=True)
        self.site.sim.knobs.change(
            "cbt", unmap_reported=self.lists_discards, unmap_unit=self.unmap_unit
        )

    # the repository

    def forget_a_point(self, which: int) -> None:
        if self.points:
            forget(self.repository, self.points.pop(which % len(self.points)).point)

    def lose_the_catalog(self) -> None:
        lose_catalog(self.repository)

    def ingest(self, **options: Any) -> None:
        self.take(IngestOptions(**options))

    def ingest_while_something_happens(self, method: str, at: int, what: str) -> None:
        self.count += 1
        arguments: dict[str, Any] = {"vm": self.name}
        match what:
            case "write":
                arguments |= {"disk": KEYS[0], "offset": 4096 * at, "data": "aGFwcGVucw=="}
            case "power":
                arguments["state"] = "crash"
                if self._machine()["power"] != "poweredOn":
                    return
            case "snapshot":
                arguments["name"] = f"{self.name}-foreign-{self.count}"
            case "set_cbt":
                arguments["enabled"] = False
            case "revert":
                if not self.foreign:
                    return
                arguments = {"snapshot": self.foreign[-1]}
        self.do.on_call(
            method=method, action="operation", at=at, operation=what, arguments=arguments
        )
        self.take(IngestOptions())
        self.do.clear_rules()
        self._look_for_snapshots()

    def fail_to_ingest(self, method: str, at: int) -> None:
        """Ingest with a fault that the ingest may or may not survive."""
        if method == "read":
            self.do.on_read(action="eio", at=at, times=3)
        else:
            self.do.on_call(method=method, action="fault", at=at, times=5)
        self.take(IngestOptions())
        self.do.clear_rules()

    def leave_a_snapshot(self, offset: int, length: int) -> None:
        """Fail reads of the second disk and the snapshot removal; the next run may resume."""
        for key in KEYS:
            self.write(key, offset, length)
        self.do.on_read(action="eio", export=f"*/{KEYS[1]}")
        self.do.on_call(method="RemoveSnapshot_Task", action="fault", times=9)
        self.take(IngestOptions())
        self.do.clear_rules()
        for key in KEYS:
            self.write(key, offset, length)
        self.take(IngestOptions())

    def take(self, options: IngestOptions) -> Manifest | None:
        """Take a point and verify it; return None if the ingest failed and committed nothing."""
        before = set(listed(self.repository))
        try:
            manifest = take_point(self.site, self.name, self.repository, options, by=self.transport)
        except CbtfsError as exc:
            self.site.counts[type(exc).__name__] += 1
            note(f"no point: {exc}")
            assert set(listed(self.repository)) == before
            return None
        self.site.counts["resumed"] += "resumed" in manifest.metadata
        for disk in manifest.of_kind("disk"):
            self.site.counts[disk.ingest] += 1
            note(f"{manifest.name}, {disk.label}: {disk.ingest}, {disk.reason}")
        self.points.append(manifest)
        self.assert_true(manifest)
        return manifest

    # verification

    def assert_true(self, manifest: Manifest) -> None:
        """Assert that every disk of the point equals the snapshot disk."""
        wrong = wrong_blocks(self.site, self.repository, manifest)
        assert wrong == {disk.label: [] for disk in manifest.of_kind("disk")}, manifest.name

    def _machine(self) -> dict[str, Any]:
        return next(listed for listed in self.do.vms() if listed["name"] == self.name)

    def disks(self) -> dict[int, int]:
        """Return the sizes of the disks by key."""
        return {disk["key"]: disk["size"] for disk in self._machine()["disks"]}
