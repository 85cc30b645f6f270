"""What a test or a person does to the simulated world: guest writes, power, snapshots of others.

The control channel offers each public method of `Operations` under its name. Arguments and results
are JSON values, except that `data` is bytes (base64 on the wire). A *vm* is a name or an id, a
*disk* a label or a device key, a *snapshot* a name or an id.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.vsim.api.site import SimulatedSite
from tools.vsim.describe import describe
from tools.vsim.fault import Fault
from tools.vsim.inventory import parse_disk, parse_inventory, parse_size
from tools.vsim.knobs import GROUPS, changed
from tools.vsim.model.disk import Disk
from tools.vsim.model.machine import Machine
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.model.world import World
from tools.vsim.restart import Restarts
from tools.vsim.rules import CallRule, ReadRule, VddkRule

BY_VSIM = "vsim"  # the user of events that operations cause
Table = dict[str, Any]


class Operations:
    """All operations. Each holds the world's lock and wakes who waits for updates."""

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

    # what there is

    def vms(self) -> list[Table]:
        """All machines with their disks and snapshots."""
        with self._world.lock:
            return [describe(machine) for machine in self._world.machines.values()]

    def truth(self, snapshot: str, disk: str | int) -> Table:
        """The frozen image of a disk: a raw file of exactly the snapshot's bytes."""
        with self._world.lock:
            _, found = self.find_snapshot(snapshot)
            frozen = next(
                (
                    each
                    for each in found.disks
                    if disk in (each.spec.key, each.spec.label, str(each.spec.key))
                ),
                None,
            )
            if frozen is None or frozen.truth is None:
                raise LookupError(f"{snapshot} has no image of {disk}")
            return {
                "path": str(frozen.truth),
                "size": frozen.spec.size,
                "sha256": _digest(frozen.truth),
                "change_id": frozen.tracked.change_id if frozen.tracked else None,
            }

    def calls(self, clear: bool = False) -> list[str]:
        """The SOAP methods that clients called, oldest first."""
        with self._world.lock:
            found = list(self._calls)
            if clear:
                self._calls.clear()
            return found

    def vddk_calls(self, clear: bool = False) -> list[str]:
        """The functions that VDDK libraries carried here, oldest first."""
        with self._world.lock:
            found = list(self._vddk_calls)
            if clear:
                self._vddk_calls.clear()
            return found

    def wait_vddk(self, function: str, seconds: float = 30) -> None:
        """Return once a library called the function; counts from the last clear."""
        with self._world.changed:
            if not self._world.changed.wait_for(lambda: function in self._vddk_calls, seconds):
                raise TimeoutError(f"nobody called {function} in {seconds} s")

    def wait_call(self, method: str, seconds: float = 30) -> None:
        """Return once a client called the method; counts from the last clear of `calls`."""
        with self._world.changed:
            if not self._world.changed.wait_for(lambda: method in self._calls, seconds):
                raise TimeoutError(f"nobody called {method} in {seconds} s")

    # the guest

    def read(self, vm: str, disk: str | int, offset: int, length: int) -> bytes:
        return self._disk(vm, disk).read(offset, length)

    def write(self, vm: str, disk: str | int, offset: int, data: bytes) -> None:
        """What a guest writes; writing the disk's file itself does the same."""
        with self._world.lock:
            self._disk(vm, disk).write(offset, data)

    def discard(self, vm: str, disk: str | int, offset: int, length: int) -> None:
        """What a guest discards; the datastore gives back whole units of `cbt.unmap_unit`."""
        with self._world.lock:
            found = self._disk(vm, disk)
            found.discard(offset, length, self.find_vm(vm).cbt_of(found))

    # the machine

    def power(self, vm: str, state: str) -> None:
        """on, off, shutdown (clean), suspend, or crash (the host loses power)."""
        machine = self.find_vm(vm)
        actions = {
            "on": machine.power_on,
            "off": machine.power_off,
            "shutdown": lambda: machine.power_off(hard=False),
            "suspend": machine.suspend,
            "crash": machine.crash,
        }
        if state not in actions:
            raise ValueError(f"state is one of {', '.join(actions)}, not {state!r}")
        with self._world.changing():
            actions[state]()

    def tools(self, vm: str, running: bool) -> None:
        with self._world.changing():
            self.find_vm(vm).tools_running = running

    def set_cbt(self, vm: str, enabled: bool) -> None:
        """What another product does with changeTrackingEnabled."""
        with self._world.changing():
            self.find_vm(vm).set_tracking(enabled)

    def set_disk_tracking(self, vm: str, disk: str | int, enabled: bool) -> None:
        """What another product does with the own ctkEnabled setting of a disk."""
        with self._world.changing():
            self.find_vm(vm).set_disk_tracking(self._disk(vm, disk), enabled)

    def reset_tracking(self, vm: str, disk: str | int) -> None:
        """Tracking of one disk starts anew: new epoch, old change IDs are useless."""
        with self._world.changing():
            machine = self.find_vm(vm)
            self._disk(vm, disk).stop_tracking()
            machine.stun()

    def stun(self, vm: str) -> None:
        """As a migration of the running machine to another host does."""
        with self._world.changing():
            self.find_vm(vm).stun()

    def ask(self, vm: str, question: str = "") -> None:
        """A question that blocks the machine; none ends it."""
        with self._world.changing():
            self.find_vm(vm).question = question or None

    def relocate(self, vm: str, datastore: str, disk: str | int = "") -> None:
        """Storage vMotion, of all or of one disk."""
        with self._world.changing():
            machine = self.find_vm(vm)
            if disk:
                moved = {self._disk(vm, disk).spec.key: datastore}
                self._world.relocate(machine, None, moved)
            else:
                moved = {each.spec.key: datastore for each in machine.disks}
                self._world.relocate(machine, datastore, moved)

    def host(
        self, host: str, connection: str | None = None, maintenance: bool | None = None
    ) -> None:
        """connected, disconnected or notResponding; in maintenance mode or not."""
        if connection not in (None, "connected", "disconnected", "notResponding"):
            raise ValueError(f"{connection!r} is no state of a connection")
        with self._world.changing():
            found = [each for each in self._world.hosts.values() if each.name == host]
            if not found:
                raise LookupError(f"no host {host!r}")
            found[0].connection = connection or found[0].connection
            found[0].maintenance = found[0].maintenance if maintenance is None else maintenance

    def datastore(
        self, datastore: str, free: str | int | None = None, accessible: bool | None = None
    ) -> None:
        """How much room a datastore has, and whether its hosts reach it."""
        with self._world.changing():
            if datastore not in self._world.datastores:
                raise LookupError(f"no datastore {datastore!r}")
            found = self._world.datastores[datastore]
            found.free = found.free if free is None else parse_size(free)
            found.accessible = found.accessible if accessible is None else accessible

    def rename(self, vm: str, name: str) -> None:
        with self._world.changing():
            self._world.rename(self.find_vm(vm), name)

    def add_vm(self, vm: Mapping[str, Any]) -> str:
        """A machine as the inventory file describes one; its id."""
        entry = parse_inventory({"vm": [vm]}, Path.cwd()).machines[0]
        with self._world.changing():
            machine = self._world.add_machine(entry)
            self._site.add_machine(machine)
            return machine.moid

    def remove_vm(self, vm: str) -> None:
        with self._world.changing():
            self._site.remove_machine(self.find_vm(vm))

    # disks

    def add_disk(self, vm: str, disk: Mapping[str, Any]) -> int:
        """A disk as the inventory file describes one; its device key."""
        with self._world.changing():
            machine = self.find_vm(vm)
            made = self._world.make_disk(machine, parse_disk(disk, Path.cwd()))
            machine.add_disk(made)
            return made.spec.key

    def remove_disk(self, vm: str, disk: str | int) -> None:
        with self._world.changing():
            self.find_vm(vm).remove_disk(self._disk(vm, disk).spec.key)

    def grow_disk(self, vm: str, disk: str | int, size: str | int) -> None:
        with self._world.changing():
            self.find_vm(vm).grow_disk(self._disk(vm, disk).spec.key, parse_size(size))

    def restore_disk(self, vm: str, disk: str | int, offset: int, data: bytes) -> None:
        """What another backup product writes back to the disk of a machine that is off."""
        with self._world.changing():
            self.find_vm(vm).restore(self._disk(vm, disk).spec.key, offset, data)

    # snapshots

    def snapshot(self, vm: str, name: str, quiesce: bool = False) -> str:
        """A snapshot that another product takes; its id."""
        with self._world.changing():
            return self._world.take_snapshot(self.find_vm(vm), name, quiesce=quiesce).moid

    def remove_snapshot(self, snapshot: str) -> None:
        with self._world.changing():
            machine, found = self.find_snapshot(snapshot)
            machine.remove_snapshots([found])

    def revert(self, snapshot: str) -> None:
        with self._world.changing():
            machine, found = self.find_snapshot(snapshot)
            machine.revert(found)
            self._site.events.add_revert(machine, found, BY_VSIM)

    # misbehaviour

    def knobs(self) -> Table:
        """All knobs as they are."""
        return {group: asdict(getattr(self._world.knobs, group)) for group in GROUPS}

    def set_knobs(self, group: str, **values: Any) -> None:
        """Change some knobs of a group."""
        with self._world.changing():
            self._world.knobs.change(group, **values)

    def set_disk_cbt(self, vm: str, disk: str | int, **values: Any) -> None:
        """Give one disk change tracking knobs of its own; none: back to those of all."""
        with self._world.changing():
            found = self._disk(vm, disk)
            base = found.cbt or self._world.knobs.cbt
            found.cbt = changed(base, values) if values else None

    def on_call(self, method: str, **rule: Any) -> None:
        """Add a rule for calls: see CallRule."""
        if rule.get("operation"):
            self.find_operation(rule["operation"])
        self._world.knobs.rules.add(CallRule(method, **rule))

    def on_read(self, **rule: Any) -> None:
        """Add a rule for reads of the data plane: see ReadRule."""
        if rule.get("operation"):
            self.find_operation(rule["operation"])
        self._world.knobs.rules.add(ReadRule(**rule))

    def on_vddk(self, function: str, **rule: Any) -> None:
        """Add a rule for calls of the VDDK library: see VddkRule."""
        self._world.knobs.rules.add(VddkRule(function, **rule))

    def clear_rules(self) -> None:
        self._world.knobs.rules.clear()

    def reset_knobs(self) -> None:
        """All knobs and rules as at the start."""
        with self._world.changing():
            self._world.knobs.reset()

    def end_sessions(self) -> None:
        """Every client has to log in again."""
        with self._world.changing():
            self._site.sessions.close_all()

    def restart(self, seconds: float = 0, starting: float = 0) -> None:
        """The server restarts: it is away for *seconds*, then answers 503 while it is *starting*.

        Connections, sessions and records of tasks are gone at once; machines, snapshots, and tasks
        that hosts are at go on, as do NBD clients. It returns before the server is back.
        """
        with self._world.changing():
            self._site.sessions.close_all()
            self._site.tasks.forget_all()
        self._restarts.begin(seconds, starting)

    def wait_restart(self, seconds: float = 30) -> None:
        """Return once the server is back."""
        self._restarts.wait(seconds)

    def advance(self, seconds: float) -> None:
        """Put the clock forward: sessions age, waits and slow tasks end."""
        self._world.advance(seconds)

    def release_tasks(self) -> None:
        """Let tasks go on that a hold-task rule keeps running."""
        self._site.tasks.release()

    def forget_tasks(self) -> None:
        """Finished tasks are gone, as they are on a vCenter after some minutes."""
        with self._world.changing():
            self._site.tasks.forget()

    # look-up

    def find_operation(self, name: str) -> Callable[..., Any]:
        """The operation of that name; raises LookupError."""
        operation: Callable[..., Any] | None = getattr(self, name, None)
        if operation is None or name.startswith(("_", "find_")) or name == "perform":
            raise LookupError(f"no operation {name!r}")
        return operation

    def perform(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The operation with JSON arguments: `data` may be base64."""
        given = dict(arguments)
        if isinstance(given.get("data"), str):
            given["data"] = base64.b64decode(given["data"], validate=True)
        return self.find_operation(name)(**given)

    def find_vm(self, vm: str) -> Machine:
        with self._world.lock:
            found = [
                machine
                for machine in self._world.machines.values()
                if vm in (machine.moid, machine.spec.name)
            ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} machines are called {vm!r}")
        return found[0]

    def find_snapshot(self, snapshot: str) -> tuple[Machine, Snapshot]:
        with self._world.lock:
            found = [
                (machine, each)
                for machine in self._world.machines.values()
                for each in machine.snapshots
                if snapshot in (each.moid, each.name)
            ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} snapshots are called {snapshot!r}")
        return found[0]

    def _disk(self, vm: str, disk: str | int) -> Disk:
        for each in self.find_vm(vm).disks:
            if disk in (each.spec.key, each.spec.label, str(each.spec.key)):
                return each
        raise LookupError(f"{vm} has no disk {disk!r}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


REFUSALS = (
    Fault,
    LookupError,
    ValueError,
    TypeError,
    TimeoutError,
)  # what an operation raises when it cannot
