"""The simulated world: datacenters, folders, datastores, hosts, machines, and their lock."""

import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, get_args

from tools.vsim.inventory import DiskEntry, HostEntry, Inventory, InventoryError, MachineEntry
from tools.vsim.knobs import Knobs
from tools.vsim.model.disk import Backing, DiskFiles, DiskSpec, SimulatedDisk
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.slots import disk_key, free_slot
from tools.vsim.model.snapshot import Snapshot, SnapshotRequest
from tools.vsim.model.spec import MachineSpec
from tools.vsim.rules import ReadRule

Operate = Callable[[str, Mapping[str, Any]], object]


@dataclass(eq=False, slots=True)
class Datastore:
    """A datastore."""

    moid: str
    name: str
    datacenter: str
    type: str
    capacity: int
    free: int
    accessible: bool


@dataclass(eq=False, slots=True)
class Host:
    """An ESXi host."""

    name: str
    datacenter: str
    port: int
    connection: str
    maintenance: bool
    address: str  # of its own NFC server; empty: the common one


class World:
    """The state of the simulated installation.

    Hold `lock` to read or change it. Every change increments `generation` and notifies `changed`,
    the condition for waiting for updates.
    """

    def __init__(self, inventory: Inventory, knobs: Knobs, state: Path) -> None:
        self.knobs = knobs
        self.state = state
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.generation = 0
        self.random = random.Random(inventory.server.seed)
        self.users = {user.name: user for user in inventory.users}
        self.datacenters = inventory.datacenters
        self.datacenter_folders = {
            name: folder.strip("/") for name, folder in inventory.datacenter_folders.items()
        }
        if unknown := self.datacenter_folders.keys() - set(self.datacenters):
            raise InventoryError(f"unknown datacenter {min(unknown)!r}")
        self.is_vcenter = inventory.server.kind == "vcenter"
        self.seed = inventory.server.seed
        self._clock_offset = 0.0
        self.operate: Operate = _no_operations  # runs the operation of a rule
        self.run = _count_run(state)
        self._snapshot_numbers = count(self.run * 1000 + 1)  # ids are never reused
        self._machine_numbers = count(101)
        self.machines: dict[str, SimulatedMachine] = {}
        self.folders: dict[str, tuple[str, str]] = {}  # machine id -> datacenter, folder path
        self.datastores = {
            entry.name: Datastore(
                f"datastore-{number}",
                entry.name,
                entry.datacenter,
                entry.type,
                entry.capacity,
                entry.capacity // 2 if entry.free < 0 else entry.free,
                entry.accessible,
            )
            for number, entry in enumerate(inventory.datastores, 11)
        }
        for store in self.datastores.values():
            if store.datacenter not in self.datacenters:
                raise InventoryError(f"unknown datacenter {store.datacenter!r}")
        self.hosts = _hosts(inventory)
        self._moved: dict[str, Host] = {}  # machine id -> host, after a vMotion
        for entry in inventory.machines:
            self.add_machine(entry)

    # time

    def now(self) -> datetime:
        """Return the wall-clock time of the simulator."""
        return datetime.now(UTC) + timedelta(seconds=self._clock_offset)

    def monotonic(self) -> float:
        """Return seconds of the simulator's clock, which `advance` moves forward."""
        return time.monotonic() + self._clock_offset

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        with self.changing():
            self._clock_offset += seconds

    def pause(self, seconds: float) -> None:
        """Wait for *seconds* of the simulator's clock; releases the lock while it waits."""
        due = self.monotonic() + seconds
        with self.changed:
            while (left := due - self.monotonic()) > 0:
                self.changed.wait(left)

    def on_read(self, start: int, end: int, name: str) -> ReadRule | None:
        """Apply knobs and rules before a read; return the rule that changes the read, if any."""
        rule = self.knobs.rules.on_read(start, end, name)
        self.pause(self.knobs.data.delay_seconds + (rule.seconds if rule else 0))
        if rule and rule.action == "operation":
            self.operate(rule.operation, rule.arguments)
        return rule

    # change

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock; on exit, wake the threads that wait for updates."""
        with self.changed:
            try:
                yield
            finally:
                self.generation += 1
                self.changed.notify_all()

    # machines

    def add_machine(self, entry: MachineEntry) -> SimulatedMachine:
        """Add a machine of the inventory; raises InventoryError."""
        if entry.datacenter not in self.datacenters:
            raise InventoryError(f"{entry.name}: unknown datacenter {entry.datacenter!r}")
        number = next(self._machine_numbers)
        moid = f"vm-{number}" if self.is_vcenter else str(number - 100)
        spec = MachineSpec(
            name=entry.name,
            instance_uuid=entry.instance_uuid or self._uuid(),
            bios_uuid=entry.bios_uuid or self._uuid(),
            hardware=entry.hardware,
            template=entry.template,
            annotation=entry.annotation,
            extra=dict(entry.extra),
        )
        directory = self._free_directory(entry.name.replace("/", "%2f"), entry.datastore, None)
        machine = SimulatedMachine(moid, spec, self.knobs, directory, entry.datastore)
        machine.tools_running = entry.tools
        machine.shared_bus = entry.shared_bus
        for disk in entry.disks:
            machine.add_disk(self.make_disk(machine, disk))
        if entry.cbt:
            machine.set_tracking(True)
        with self.changing():
            self.machines[moid] = machine
            self.folders[moid] = (entry.datacenter, entry.folder.strip("/"))
        if entry.power == "on" and not entry.template:
            machine.power_on()
        return machine

    def make_disk(self, machine: SimulatedMachine, entry: DiskEntry) -> SimulatedDisk:
        """Create a disk without adding it to the machine; raises InventoryError."""
        used = {disk.spec.slot for disk in machine.disks}
        slot = entry.slot or free_slot(used)
        if slot in used:
            raise InventoryError(f"{machine.spec.name}: slot {slot} is in use")
        if entry.backing not in get_args(Backing):
            raise InventoryError(
                f"invalid backing {entry.backing!r}: use one of {get_args(Backing)}"
            )
        datastore = entry.datastore or machine.datastore
        if datastore not in self.datastores:
            raise InventoryError(f"{machine.spec.name}: unknown datastore {datastore!r}")
        size = entry.size or (entry.file.stat().st_size if entry.file else 0)
        if size <= 0 or size % 512:
            raise InventoryError(
                f"{machine.spec.name}: invalid disk size {size}: use a multiple of 512"
            )
        taken = {disk.base for disk in machine.disks}
        first = f"{machine.directory}/{machine.directory}"
        candidates = (f"{first}_{number}" if number else first for number in count())
        base = next(name for name in candidates if name not in taken)
        key = disk_key(slot)
        store = self.state / "disks" / machine.moid / f"{key}-{self.random.getrandbits(32):08x}"
        spec = DiskSpec(
            key=key,
            label=entry.label or f"Hard disk {len(machine.disks) + 1}",
            slot=slot,
            size=size,
            uuid=self._uuid(),
            object_id=f"{machine.moid.removeprefix('vm-')}-{key}",
            mode=entry.mode,
            backing=entry.backing,  # type: ignore[arg-type]
            provisioning=entry.provisioning,  # type: ignore[arg-type]
            sharing=entry.sharing,
            linked=entry.linked,
        )
        files = DiskFiles(entry.file or store / "live.raw", store)
        return SimulatedDisk(spec, datastore, base, files, f"{self.run}/{self.seed}/{store}")

    def take_snapshot(self, machine: SimulatedMachine, request: SnapshotRequest) -> Snapshot:
        """Take a snapshot and give it a new id."""
        number = next(self._snapshot_numbers)
        moid = f"snapshot-{number}" if self.is_vcenter else f"{machine.moid}-snapshot-{number}"
        keep = self.state / "snapshots" / moid
        return machine.take_snapshot(request, moid, number, self.now(), keep)

    def snapshot(self, moid: str) -> tuple[SimulatedMachine, Snapshot] | None:
        """Return the snapshot with that id, and its machine."""
        for machine in self.machines.values():
            for snapshot in machine.snapshots:
                if snapshot.moid == moid:
                    return machine, snapshot
        return None

    def host_of(self, moid: str) -> Host:
        """Return the host of a machine."""
        return self._moved.get(moid) or self.hosts_of(self.folders[moid][0])[0]

    def hosts_of(self, datacenter: str) -> list[Host]:
        """Return the hosts of a datacenter."""
        return [host for host in self.hosts.values() if host.datacenter == datacenter]

    def vmotion(self, machine: SimulatedMachine, name: str) -> None:
        """Move a machine to another host of its datacenter; the move stuns it."""
        host = self.hosts.get(name)
        if host is None or host.datacenter != self.folders[machine.moid][0]:
            raise LookupError(f"no host {name!r} in the datacenter of the machine")
        self._moved[machine.moid] = host
        machine.stun()

    def is_host_busy(self, moid: str) -> bool:
        """Return whether the machine's host serves its maximum of readers."""
        limit, host = self.knobs.data.max_readers, self.host_of(moid)
        local = (vm for vm in self.machines.values() if self.host_of(vm.moid) is host)
        return bool(limit) and sum(vm.readers.total() for vm in local) >= limit

    def relocate(
        self, machine: SimulatedMachine, home: str | None, disks: Mapping[int, str]
    ) -> None:
        """Move a machine's own files, and disks by device key, to other datastores."""

        def locate(datastore: str) -> tuple[str, str]:
            if datastore not in self.datastores:
                raise LookupError(f"unknown datastore {datastore!r}")
            name = machine.spec.name.replace("/", "%2f")
            return datastore, self._free_directory(name, datastore, machine)

        machine.relocate(
            None if home is None else locate(home), {key: locate(disks[key]) for key in disks}
        )

    def rename(self, machine: SimulatedMachine, name: str) -> None:
        """Rename a machine."""
        machine.configure(replace(machine.spec, name=name))

    def _uuid(self) -> str:
        return str(uuid.UUID(bytes=self.random.randbytes(16), version=4))

    def _free_directory(self, name: str, datastore: str, owner: SimulatedMachine | None) -> str:
        taken = {
            directory
            for machine in self.machines.values()
            if machine is not owner
            for store, directory in (
                (machine.datastore, machine.directory),
                *((disk.datastore, disk.directory) for disk in machine.disks),
            )
            if store == datastore
        }
        candidates = (name if number == 0 else f"{name}_{number}" for number in count())
        return next(candidate for candidate in candidates if candidate not in taken)


def _hosts(inventory: Inventory) -> dict[str, Host]:
    """Return the hosts by name; raises InventoryError."""
    known = {entry.datacenter for entry in inventory.hosts}
    if unknown := known - set(inventory.datacenters):
        raise InventoryError(f"unknown datacenter {min(unknown)!r}")
    default = (
        HostEntry(f"esx{number}", datacenter)
        for number, datacenter in enumerate(inventory.datacenters, 1)
        if datacenter not in known
    )
    hosts = {}
    for entry in (*inventory.hosts, *default):
        if entry.name in hosts:
            raise InventoryError(f"two hosts have the name {entry.name!r}")
        hosts[entry.name] = Host(
            entry.name,
            entry.datacenter,
            entry.port,
            entry.connection,
            entry.maintenance,
            entry.address,
        )
    return hosts


def _no_operations(name: str, arguments: Mapping[str, Any]) -> None:
    raise LookupError(name)


def _count_run(state: Path) -> int:
    """Return the number of earlier runs on this state directory, and count this one.

    Live images survive from run to run; snapshots and tracking do not.
    """
    counter = state / "runs"
    number = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(f"{number + 1}\n")
    if (state / "snapshots").exists():
        shutil.rmtree(state / "snapshots")
    return number
