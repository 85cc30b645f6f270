"""Tasks, each in its own thread: queued, running, then success or error."""

import threading
from datetime import datetime
from itertools import count
from typing import Any

from tools.vsim.api.base import ManagedObject, MethodCall, Properties, Site, Work
from tools.vsim.fault import Fault, MoRef
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.rules import CallRule
from tools.vsim.soap.vmodl import managed_object, method_fault, method_named, typed, vim


class Task(ManagedObject):
    """One operation on a machine."""

    kind = vim.Task

    def __init__(self, site: Site, moid: str, call: MethodCall, machine: SimulatedMachine) -> None:
        super().__init__(site, moid)
        self.method = call.method
        self.machine = machine
        self.user = call.caller.user.name
        self.state = "queued"
        self.progress: int | None = None
        self.error: Fault | None = None
        self.result: MoRef | None = None
        self.cancelled = False
        self.released = False
        self.queued = site.world.now()
        self.created = site.world.monotonic()
        self.started: datetime | None = None
        self.completed: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("success", "error")

    def properties(self) -> Properties:
        return {"info": self.info}

    def info(self) -> Any:
        """Return the present TaskInfo."""
        method = method_named(self.method)
        name = method.info.name
        return vim.TaskInfo(
            key=self.moid,
            task=self.object,
            name=method,
            descriptionId=f"VirtualMachine.{name[0].lower()}{name[1:]}",
            entity=managed_object(MoRef("vim.VirtualMachine", self.machine.moid)),
            entityName=self.machine.spec.name,
            state=typed(vim.TaskInfo.State, self.state),
            cancelled=self.cancelled,
            cancelable=True,
            error=method_fault(self.error) if self.error else None,
            result=managed_object(self.result) if self.result else None,
            progress=self.progress,
            reason=vim.TaskReasonUser(userName=self.user),
            queueTime=self.queued,
            startTime=self.started,
            completeTime=self.completed,
            eventChainId=int(self.moid.rpartition("-")[2]),
        )

    def CancelTask(self, call: MethodCall) -> None:
        if self.is_over:
            raise Fault("vim.fault.InvalidState", "The task has ended.")
        with self.site.world.changing():
            self.cancelled = True

    def finish(self, error: Fault | None = None, result: MoRef | None = None) -> None:
        """End the task with an error or a result."""
        with self.site.world.changing():
            self.state = "error" if error else "success"
            self.error, self.result = error, result
            self.progress = self.progress if error else 100
            self.completed = self.site.world.now()


class Tasks:
    """All tasks. A machine runs one at a time; a second one fails with TaskInProgress."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._numbers = count(1)
        self._all: dict[str, Task] = {}
        self._detached: list[Task] = []  # run on hosts; vCenter lost their records in a restart
        self._threads: list[threading.Thread] = []
        self._closing = False

    def references(self, machine: SimulatedMachine | None = None) -> list[Any]:
        """Return references to the tasks of one machine, or of all machines."""
        return [
            task.object for task in self._all.values() if machine is None or task.machine is machine
        ]

    def find(self, moid: str) -> Task | None:
        return self._all.get(moid)

    def active(self, machine: SimulatedMachine) -> Task | None:
        """Return the unfinished task of a machine."""
        tasks = (*self._all.values(), *self._detached)
        return next((task for task in tasks if task.machine is machine and not task.is_over), None)

    def start(self, call: MethodCall, machine: SimulatedMachine, work: Work) -> Any:
        """Start a task that runs *work*; return its reference."""
        site = self._site
        other = self.active(machine)
        busy = other and Fault(
            "vim.fault.TaskInProgress",
            "The operation is not allowed in the current state: another task is in progress.",
            task=other.ref,
        )
        if busy and site.world.knobs.task.in_progress_as == "call":
            raise busy
        site.leases.require_none(machine)
        task = Task(site, f"task-{next(self._numbers)}", call, machine)
        with site.world.changing():
            self._all[task.moid] = task
        if busy:
            task.finish(busy)
        else:
            thread = threading.Thread(
                target=self._run, args=(task, work, list(call.task_rules)), name=task.moid
            )
            self._threads.append(thread)
            thread.start()
        return task.object

    def release(self) -> None:
        """Continue every task that a hold-task rule holds."""
        with self._site.world.changing():
            for task in (*self._all.values(), *self._detached):
                task.released = True

    def forget(self) -> None:
        """Drop finished tasks."""
        self._all = {moid: task for moid, task in self._all.items() if not task.is_over}

    def forget_all(self) -> None:
        """Drop all records, as a restart of vCenter does; running tasks continue on their hosts."""
        self._detached += [task for task in self._all.values() if not task.is_over]
        self._all = {}

    def close(self) -> None:
        """Cancel all running tasks and wait for their threads."""
        with self._site.world.changing():
            self._closing = True
        for thread in self._threads:
            thread.join()

    def _run(self, task: Task, work: Work, rules: list[CallRule]) -> None:
        world = self._site.world
        with world.changing():
            task.state, task.started, task.progress = "running", world.now(), 0
        error, result = self._before(task, rules), None
        try:
            if error is None:
                with world.changing():
                    result = work()
                error = _fault_of(rules, "task-fault-after")
        except Fault as fault:
            error = fault
        except Exception as bug:  # end of the thread: report a bug as the error of the task
            task.finish(Fault("vmodl.fault.SystemError", f"bug in vsim: {bug!r}", reason=repr(bug)))
            raise
        task.finish(error, None if error else result)

    def _before(self, task: Task, rules: list[CallRule]) -> Fault | None:
        """Wait as knobs and rules require; return the fault that ends the task before its work."""
        world = self._site.world
        held = any(rule.action == "hold-task" for rule in rules)
        due = task.created + world.knobs.task.seconds
        with world.changed:
            while not (task.cancelled or self._closing):
                left = due - world.monotonic()
                if (task.released or not held) and left <= 0:
                    break
                world.changed.wait(None if held and not task.released else left)
        if task.cancelled or self._closing:
            return Fault("vmodl.fault.RequestCanceled", "The task was canceled by a user.")
        return _fault_of(rules, "task-fault")


def _fault_of(rules: list[CallRule], action: str) -> Fault | None:
    for rule in rules:
        if rule.action == action:
            return Fault(rule.fault, rule.message, **rule.fields)
    return None


class TaskManager(ManagedObject):
    kind = vim.TaskManager

    def properties(self) -> Properties:
        return {
            "recentTask": self.site.tasks.references,
            "maxCollector": lambda: 0,
        }
