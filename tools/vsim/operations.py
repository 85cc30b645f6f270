"""Operations on the simulated world: guest writes, power, snapshots by other products.

The control channel offers each public method of `Operations` under its name. Arguments and results
are JSON values, except that `data` is bytes (base64 on the wire). A *vm* is a name or an id, a
*disk* a label or a device key, a *snapshot* a name or an id.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.vsim.api.site import SimulatedSite
from tools.vsim.describe import describe, describe_image
from tools.vsim.fault import Fault
from tools.vsim.inventory import parse_disk, parse_inventory, parse_size
from tools.vsim.knobs import GROUPS, changed
from tools.vsim.model.disk import DiskSpec, SimulatedDisk
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.snapshot import Snapshot, SnapshotRequest
from tools.vsim.model.world import World
from tools.vsim.restart import Restarts
from tools.vsim.rules import CallRule, NfcRule, ReadRule, VddkRule

BY_VSIM = "vsim"  # user name in the events that operations cause
Table = dict[str, Any]


class Operations:
    """All operations. Each holds the world's lock and wakes the threads that wait for updates."""

    def __init__(
        self,
        world: World,
        site: SimulatedSite,
        calls: list[str],
        vddk_calls: list[str],
        restarts: Restarts,
    ) -> None:
        self._world = world
        self._site = site
        self._calls = calls
        self._vddk_calls = vddk_calls
        self._restarts = restarts

    # queries

    def vms(self) -> list[Table]:
        """Return all machines with their disks and snapshots."""
        with self._world.lock:
            return [describe(machine) for machine in self._world.machines.values()]

    def truth(self, snapshot: str, disk: str | int) -> Table:
        """Return the reference image of a snapshot disk: a raw file of exactly its bytes."""
        with self._world.lock:
            _, holder = self.find_snapshot(snapshot)
            held = next((state for state in holder.disks if _is_named(disk, state.spec)), None)
            if held is None or held.truth is None:
                raise LookupError(f"snapshot {snapshot} has no image of disk {disk}")
            return describe_image(held, held.truth)

    def calls(self, clear: bool = False) -> list[str]:
        """Return the names of the SOAP methods that clients called, oldest first."""
        return self._listed(self._calls, clear)

    def vddk_calls(self, clear: bool = False) -> list[str]:
        """Return the names of the VDDK functions that reached the simulator, oldest first."""
        return self._listed(self._vddk_calls, clear)

    def wait_vddk(self, function: str, seconds: float = 30) -> None:
        """Return once a library has called the function since `vddk_calls` was last cleared."""
        self._wait(self._vddk_calls, function, seconds)

    def wait_call(self, method: str, seconds: float = 30) -> None:
        """Return once a client has called the method since `calls` was last cleared."""
        self._wait(self._calls, method, seconds)

    def nfc_counts(self, clear: bool = False) -> dict[str, int]:
        """Return what the NFC server has counted since `nfc_counts` was last cleared."""
        return self._site.nfc.report(clear)

    def _listed(self, names: list[str], clear: bool) -> list[str]:
        with self._world.lock:
            listed = list(names)
            if clear:
                names.clear()
            return listed

    def _wait(self, names: list[str], name: str, seconds: float) -> None:
        with self._world.changed:
            if not self._world.changed.wait_for(lambda: name in names, seconds):
                raise TimeoutError(f"nobody called {name} within {seconds} s")

    # guest

    def read(self, vm: str, disk: str | int, offset: int, length: int) -> bytes:
        """Return bytes of the live disk."""
        return self._disk(vm, disk).read(offset, length)

    def write(self, vm: str, disk: str | int, offset: int, data: bytes) -> None:
        """Write to the disk as a guest does; writing to the disk's file has the same effect."""
        with self._world.lock:
            self._disk(vm, disk).write(offset, data)

    def discard(self, vm: str, disk: str | int, offset: int, length: int) -> None:
        """Discard a range as a guest does; only whole units of `cbt.unmap_unit` are freed."""
        with self._world.lock:
            target = self._disk(vm, disk)
            target.discard(offset, length, self.find_vm(vm).cbt_of(target))

    # machine

    def power(self, vm: str, state: str) -> None:
        """Set the power state: on, off, shutdown (clean), suspend, or crash (host power loss)."""
        machine = self.find_vm(vm)
        actions = {
            "on": machine.power_on,
            "off": machine.power_off,
            "shutdown": lambda: machine.power_off(hard=False),
            "suspend": machine.suspend,
            "crash": machine.crash,
        }
        if state not in actions:
            raise ValueError(f"invalid power state {state!r}: use one of {', '.join(actions)}")
        with self._world.changing():
            actions[state]()

    def tools(self, vm: str, running: bool) -> None:
        """Start or stop VMware Tools in the guest."""
        with self._world.changing():
            self.find_vm(vm).tools_running = running

    def set_cbt(self, vm: str, enabled: bool) -> None:
        """Set changeTrackingEnabled, as another product does."""
        with self._world.changing():
            self.find_vm(vm).set_tracking(enabled)

    def set_disk_tracking(self, vm: str, disk: str | int, enabled: bool) -> None:
        """Set ctkEnabled of one disk, as another product does."""
        with self._world.changing():
            self.find_vm(vm).set_disk_tracking(self._disk(vm, disk), enabled)

    def reset_tracking(self, vm: str, disk: str | int) -> None:
        """Reset tracking of one disk: it gets a new epoch, and old change IDs become invalid."""
        with self._world.changing():
            machine = self.find_vm(vm)
            self._disk(vm, disk).stop_tracking()
            machine.stun()

    def stun(self, vm: str) -> None:
        """Stun the machine, as a migration to another host does."""
        with self._world.changing():
            self.find_vm(vm).stun()

    def vmotion(self, vm: str, host: str) -> None:
        """Move the machine to another host of its datacenter (vMotion)."""
        with self._world.changing():
            self._world.vmotion(self.find_vm(vm), host)

    def ask(self, vm: str, question: str = "") -> None:
        """Set the question that blocks the machine; an empty question ends it."""
        with self._world.changing():
            self.find_vm(vm).question = question or None

    def relocate(self, vm: str, datastore: str, disk: str | int = "") -> None:
        """Move the machine, or only *disk*, to another datastore (storage vMotion)."""
        with self._world.changing():
            machine = self.find_vm(vm)
            if disk:
                moved = {self._disk(vm, disk).spec.key: datastore}
                self._world.relocate(machine, None, moved)
            else:
                moved = {member.spec.key: datastore for member in machine.disks}
                self._world.relocate(machine, datastore, moved)

    def host(
        self, host: str, connection: str | None = None, maintenance: bool | None = None
    ) -> None:
        """Set a host's connection (connected, disconnected, notResponding) or maintenance mode."""
        if connection not in (None, "connected", "disconnected", "notResponding"):
            raise ValueError(f"invalid connection state {connection!r}")
        with self._world.changing():
            target = self._world.hosts.get(host)
            if target is None:
                raise LookupError(f"no host {host!r}")
            target.connection = connection or target.connection
            target.maintenance = target.maintenance if maintenance is None else maintenance

    def datastore(
        self, datastore: str, free: str | int | None = None, accessible: bool | None = None
    ) -> None:
        """Set the free space of a datastore, and whether its hosts can reach it."""
        with self._world.changing():
            if datastore not in self._world.datastores:
                raise LookupError(f"no datastore {datastore!r}")
            store = self._world.datastores[datastore]
            store.free = store.free if free is None else parse_size(free)
            store.accessible = store.accessible if accessible is None else accessible

    def rename(self, vm: str, name: str) -> None:
        """Rename a machine."""
        with self._world.changing():
            self._world.rename(self.find_vm(vm), name)

    def add_vm(self, vm: Mapping[str, Any]) -> str:
        """Add a machine, described as in the inventory file; return its id."""
        entry = parse_inventory({"vm": [vm]}, Path.cwd()).machines[0]
        with self._world.changing():
            machine = self._world.add_machine(entry)
            self._site.add_machine(machine)
            return machine.moid

    def remove_vm(self, vm: str) -> None:
        """Remove a machine from the inventory."""
        with self._world.changing():
            self._site.remove_machine(self.find_vm(vm))

    # disks

    def add_disk(self, vm: str, disk: Mapping[str, Any]) -> int:
        """Add a disk, described as in the inventory file; return its device key."""
        with self._world.changing():
            machine = self.find_vm(vm)
            added = self._world.make_disk(machine, parse_disk(disk, Path.cwd()))
            machine.add_disk(added)
            return added.spec.key

    def remove_disk(self, vm: str, disk: str | int) -> None:
        """Remove a disk from its machine."""
        with self._world.changing():
            self.find_vm(vm).remove_disk(self._disk(vm, disk).spec.key)

    def grow_disk(self, vm: str, disk: str | int, size: str | int) -> None:
        """Extend a disk to *size*."""
        with self._world.changing():
            self.find_vm(vm).grow_disk(self._disk(vm, disk).spec.key, parse_size(size))

    def restore_disk(self, vm: str, disk: str | int, offset: int, data: bytes) -> None:
        """Write to the disk of a machine that is off, as the restore of another product does."""
        with self._world.changing():
            self.find_vm(vm).restore(self._disk(vm, disk).spec.key, offset, data)

    # snapshots

    def snapshot(self, vm: str, name: str, quiesce: bool = False) -> str:
        """Take a snapshot, as another product does; return its id."""
        with self._world.changing():
            return self._world.take_snapshot(
                self.find_vm(vm), SnapshotRequest(name, quiesce=quiesce)
            ).moid

    def remove_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot."""
        with self._world.changing():
            machine, target = self.find_snapshot(snapshot)
            machine.remove_snapshots([target])

    def revert(self, snapshot: str) -> None:
        """Revert a machine to a snapshot."""
        with self._world.changing():
            machine, target = self.find_snapshot(snapshot)
            machine.revert(target)
            self._site.events.add_revert(machine, target, BY_VSIM)

    # faults

    def knobs(self) -> Table:
        """Return the values of all knobs."""
        return {group: asdict(getattr(self._world.knobs, group)) for group in GROUPS}

    def set_knobs(self, group: str, **values: Any) -> None:
        """Set knobs of a group."""
        with self._world.changing():
            self._world.knobs.change(group, **values)

    def set_disk_cbt(self, vm: str, disk: str | int, **values: Any) -> None:
        """Set `cbt` knobs of one disk; without values, the disk uses the common knobs again."""
        with self._world.changing():
            target = self._disk(vm, disk)
            base = target.cbt or self._world.knobs.cbt
            target.cbt = changed(base, values) if values else None

    def on_call(self, method: str, **rule: Any) -> None:
        """Add a rule for SOAP calls; see CallRule."""
        if rule.get("operation"):
            self.find_operation(rule["operation"])
        self._world.knobs.rules.add(CallRule(method, **rule))

    def on_read(self, **rule: Any) -> None:
        """Add a rule for reads of disks; see ReadRule."""
        if rule.get("operation"):
            self.find_operation(rule["operation"])
        self._world.knobs.rules.add(ReadRule(**rule))

    def on_vddk(self, function: str, **rule: Any) -> None:
        """Add a rule for calls of the VDDK library; see VddkRule."""
        self._world.knobs.rules.add(VddkRule(function, **rule))

    def on_nfc(self, point: str, action: str, **rule: Any) -> None:
        """Add a rule for the answers of the NFC server; see NfcRule."""
        if rule.get("operation"):
            self.find_operation(rule["operation"])
        self._world.knobs.rules.add(NfcRule(point, action, **rule))  # type: ignore[arg-type]

    def clear_rules(self) -> None:
        """Remove all rules."""
        self._world.knobs.rules.clear()

    def reset_knobs(self) -> None:
        """Restore the default of every knob and remove all rules."""
        with self._world.changing():
            self._world.knobs.reset()

    def end_sessions(self) -> None:
        """End all sessions; every client must log in again."""
        with self._world.changing():
            self._site.sessions.close_all()

    def restart(self, seconds: float = 0, starting: float = 0) -> None:
        """Restart the server: it is away for *seconds*, then answers 503 for *starting* seconds.

        Connections, sessions and task records are lost at once. Machines, snapshots, NBD clients
        and tasks that run on hosts are not affected. Returns before the server is back.
        """
        with self._world.changing():
            self._site.sessions.close_all()
            self._site.tasks.forget_all()
        self._restarts.begin(seconds, starting)

    def wait_restart(self, seconds: float = 30) -> None:
        """Return once the server is back."""
        self._restarts.wait(seconds)

    def advance(self, seconds: float) -> None:
        """Advance the clock: sessions age, waits and slow tasks end."""
        self._world.advance(seconds)

    def release_tasks(self) -> None:
        """Continue the tasks that a hold-task rule keeps running."""
        self._site.tasks.release()

    def forget_tasks(self) -> None:
        """Drop finished tasks, as a vCenter does after some minutes."""
        with self._world.changing():
            self._site.tasks.forget()

    # lookup

    def find_operation(self, name: str) -> Callable[..., Any]:
        """Return the operation of that name; raises LookupError."""
        operation: Callable[..., Any] | None = getattr(self, name, None)
        if operation is None or name.startswith(("_", "find_")) or name == "perform":
            raise LookupError(f"no operation {name!r}")
        return operation

    def perform(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation with JSON arguments; `data` may be base64."""
        decoded = dict(arguments)
        if isinstance(decoded.get("data"), str):
            decoded["data"] = base64.b64decode(decoded["data"], validate=True)
        return self.find_operation(name)(**decoded)

    def find_vm(self, vm: str) -> SimulatedMachine:
        """Return the machine with that name or id; raises LookupError."""
        with self._world.lock:
            matches = [
                machine
                for machine in self._world.machines.values()
                if vm in (machine.moid, machine.spec.name)
            ]
        if len(matches) != 1:
            raise LookupError(f"{len(matches)} machines have the name or id {vm!r}")
        return matches[0]

    def find_snapshot(self, snapshot: str) -> tuple[SimulatedMachine, Snapshot]:
        """Return the snapshot with that name or id, and its machine; raises LookupError."""
        with self._world.lock:
            matches = [
                (machine, candidate)
                for machine in self._world.machines.values()
                for candidate in machine.snapshots
                if snapshot in (candidate.moid, candidate.name)
            ]
        if len(matches) != 1:
            raise LookupError(f"{len(matches)} snapshots have the name or id {snapshot!r}")
        return matches[0]

    def _disk(self, vm: str, disk: str | int) -> SimulatedDisk:
        for candidate in self.find_vm(vm).disks:
            if _is_named(disk, candidate.spec):
                return candidate
        raise LookupError(f"machine {vm} has no disk {disk!r}")


def _is_named(disk: str | int, spec: DiskSpec) -> bool:
    return disk in (spec.key, spec.label, str(spec.key))


REFUSALS = (Fault, LookupError, ValueError, TypeError, TimeoutError)
"""Exceptions of operations that are refused or fail."""
