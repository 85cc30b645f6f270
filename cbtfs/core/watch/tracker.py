"""The state machine of a watch: updates in, events out.

The tracker keeps two states of each VM: the one that was reported, and the current one, to which
updates are applied. `settle` compares the two. So the same events result whether changes arrive one
by one, in one truncated set, or as a new initial state after the session ended; a repeated update
is no event, and a change that was made and undone in between is none either.
"""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Final

from cbtfs.core.watch.events import Event, differences
from cbtfs.core.watch.facts import VmFacts

GRACE_SECONDS: Final = 120.0
"""Time after the end of a task in which its effect on the configuration becomes visible."""
_TASKS: Final = 16
"""Tasks remembered per VM."""
_HOSTS: Final = 10_000
_DEPARTED: Final = 10_000
"""VMs remembered after they left, to compare them if they return."""


@dataclass(frozen=True, slots=True)
class VmUpdate:
    """Facts of a VM that entered or changed; unknown ones keep their value."""

    id: str
    facts: VmFacts


@dataclass(frozen=True, slots=True)
class VmLeft:
    """A VM that the filter no longer covers: it was removed, or is no longer visible."""

    id: str


@dataclass(frozen=True, slots=True)
class TaskUpdate:
    """A task that reconfigures a VM."""

    id: str
    vm: str
    is_own: bool
    """The user of cbtfs started it."""
    is_over: bool


@dataclass(frozen=True, slots=True)
class TaskLeft:
    """A task that the server no longer reports."""

    id: str


@dataclass(frozen=True, slots=True)
class HostUpdate:
    """The name of a host."""

    id: str
    name: str


Update = VmUpdate | VmLeft | TaskUpdate | TaskLeft | HostUpdate


@dataclass(slots=True)
class _Task:
    is_own: bool
    ended: float | None = None
    is_used: bool = False
    """It explained a change, and explains no other one."""


class _Tasks:
    """Recent reconfigurations of VMs, to recognise those of cbtfs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_vm: dict[str, dict[str, _Task]] = {}
        self._vm_of: dict[str, str] = {}

    def put(self, update: TaskUpdate) -> None:
        vm = self._vm_of.setdefault(update.id, update.vm)
        tasks = self._by_vm.setdefault(vm, {})
        task = tasks.setdefault(update.id, _Task(update.is_own))
        if update.is_over and task.ended is None:
            task.ended = self._clock()
        while len(tasks) > _TASKS:
            self._remove(vm, next(iter(tasks)))

    def end(self, task: str) -> None:
        """Note that a task is no longer reported: it ended, if that was not known."""
        vm = self._vm_of.get(task)
        if vm is not None and self._by_vm[vm][task].ended is None:
            self._by_vm[vm][task].ended = self._clock()

    def end_all(self) -> None:
        for task in list(self._vm_of):
            self.end(task)

    def explain(self, vm: str) -> bool:
        """Return whether only cbtfs has reconfigured the VM lately; each task explains one change.

        So a change that another program makes just after cbtfs, by a task that the user may not
        see, is not taken for a change of cbtfs.
        """
        self._expire(vm)
        tasks = [task for task in self._by_vm.get(vm, {}).values() if not task.is_used]
        for task in tasks:
            task.is_used = True
        return bool(tasks) and all(task.is_own for task in tasks)

    def expire_all(self, vms: Container[str]) -> None:
        """Forget tasks that explain nothing any more, and those of other VMs than *vms*."""
        for vm in list(self._by_vm):
            if vm in vms:
                self._expire(vm)
            else:
                for task in list(self._by_vm[vm]):
                    self._remove(vm, task)

    def _expire(self, vm: str) -> None:
        latest = self._clock() - GRACE_SECONDS
        for identity, task in list(self._by_vm.get(vm, {}).items()):
            if task.ended is not None and task.ended < latest:
                self._remove(vm, identity)

    def _remove(self, vm: str, task: str) -> None:
        del self._by_vm[vm][task], self._vm_of[task]
        if not self._by_vm[vm]:
            del self._by_vm[vm]


class Tracker:
    """The reported and the current state of all watched VMs; not safe for several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """*clock* returns seconds that never go back."""
        self._reported: dict[str, VmFacts] = {}
        self._current: dict[str, VmFacts] = {}
        self._changed: dict[str, None] = {}
        self._entered: dict[str, None] = {}
        self._left: dict[str, None] = {}
        self._departed: dict[str, VmFacts] = {}
        self._unconfirmed: set[str] = set()
        self._hosts: dict[str, str] = {}
        self._tasks = _Tasks(clock)
        self._is_initial = True

    @property
    def vms(self) -> int:
        """Number of VMs that are in view."""
        return len(self._current)

    def covers(self, vm: str) -> bool:
        """Return whether the VM is in view."""
        return vm in self._current

    def name(self, vm: str) -> str | None:
        """Return the name of a VM that is or was in view."""
        facts = self._current.get(vm) or self._departed.get(vm)
        return None if facts is None else facts.name

    def begin(self) -> None:
        """Expect a whole new state: after the start, a lost session or a restart of the server."""
        self._unconfirmed = set(self._current)
        self._tasks.end_all()

    def apply(self, updates: Iterable[Update]) -> None:
        """Apply updates to the current state; events follow from `settle`."""
        for update in updates:
            match update:
                case VmUpdate():
                    self._put(update)
                case VmLeft():
                    self._leave(update.id)
                case TaskUpdate():
                    self._tasks.put(update)
                case TaskLeft():
                    self._tasks.end(update.id)
                case HostUpdate():
                    self._hosts.pop(update.id, None)
                    self._hosts[update.id] = update.name
                    if len(self._hosts) > _HOSTS:
                        del self._hosts[next(iter(self._hosts))]

    def _put(self, update: VmUpdate) -> None:
        vm = update.id
        self._unconfirmed.discard(vm)
        before = self._current.get(vm)
        if before is None:
            if vm in self._left:
                del self._left[vm]  # it left and returned within one set
            else:
                self._entered[vm] = None
            before = self._departed.pop(vm, None) or VmFacts()
            if before != VmFacts():
                self._reported[vm] = before
        self._current[vm] = before.updated(update.facts)
        self._changed[vm] = None

    def _leave(self, vm: str) -> None:
        self._unconfirmed.discard(vm)
        facts = self._current.pop(vm, None)
        if facts is None:
            return
        self._changed.pop(vm, None)
        if vm in self._entered:
            del self._entered[vm]
        else:
            self._left[vm] = None
        self._departed[vm] = self._reported.pop(vm, VmFacts(name=facts.name))
        if len(self._departed) > _DEPARTED:
            del self._departed[next(iter(self._departed))]

    def settle(self) -> list[Event]:
        """Return the events since the last call, once the updates of a version are complete."""
        for vm in sorted(self._unconfirmed):
            self._leave(vm)
        self._unconfirmed = set()
        events = [Event("left", vm) for vm in self._left]
        if not self._is_initial:
            events += [Event("entered", vm) for vm in self._entered]
        for vm in self._changed:
            events += self._compare(vm)
        self._left, self._entered, self._changed = {}, {}, {}
        self._is_initial = False
        self._tasks.expire_all(self._current)
        return events

    def _compare(self, vm: str) -> list[Event]:
        old, new = self._reported.get(vm), self._current[vm]
        if not new.is_connected:
            return []  # compared when the server knows the state again
        self._reported[vm] = new if old is None else old.updated(new)
        if old is None or old == new:
            return []
        foreign = list(differences(vm, old, new, self._hosts, is_own=False))
        own = list(differences(vm, old, new, self._hosts, is_own=True))
        return own if own != foreign and self._tasks.explain(vm) else foreign
