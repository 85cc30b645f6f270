"""Wait for a task with WaitForUpdatesEx and a timeout.

pyVim.task.WaitForTask sets no time limit on the server, checks its own only when an update arrives,
and fails when the session ends.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.connect.faults import text_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import Collector

log = logging.getLogger(__name__)

_PATHS: Final = ("info.state", "info.error", "info.result")
_STALE: Final = (vmodl.query.InvalidCollectorVersion, vmodl.fault.ManagedObjectNotFound)
_OVER: Final = ("success", "error")


class TaskTimeout(SourceUnavailable):
    """Raised when a task did not end in time and was cancelled."""


class TaskGone(SourceUnavailable):
    """Raised when the server no longer knows the task; its result must be found another way."""


def wait_task(
    session: Session,
    task: Any,
    what: str,
    seconds: float | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Any:
    """Return the result of *task*; raise its error as the original fault.

    Raises:
        TaskTimeout: the task did not end within *seconds*; it was cancelled.
        Stopped: *is_stopped* returned True; the task was cancelled.
        TaskGone: the server no longer knows the task.
    """
    limit = session.retry_policy.task if seconds is None else seconds
    watch = _TaskWatch(session, task)
    try:
        due = time.monotonic() + limit
        while not watch.is_over:
            left = due - time.monotonic()
            if left <= 0:
                _cancel(session, task)
                raise TaskTimeout(
                    f"{what}: cancelled, because it did not end in {limit:.0f} s: see the tasks of "
                    "the server"
                )
            if is_stopped():
                _cancel(session, task)
                raise Stopped(f"{what}: interrupted")
            watch.wait(max(1, min(session.retry_policy.poll, int(left) + 1)))
    finally:
        watch.close()
    if watch.facts["info.state"] == "error":
        raise watch.facts.get("info.error") or vmodl.fault.SystemError(msg="no error given")
    return watch.facts.get("info.result")


def _cancel(session: Session, task: Any) -> None:
    try:
        session.repeat(task.CancelTask, "cancel a task")
    except (vmodl.MethodFault, SourceUnavailable) as exc:
        log.info("cannot cancel %s: %s", task._moId, exc)


class _TaskWatch:
    """The state of one task, updated by a property collector of its own."""

    def __init__(self, session: Session, task: Any) -> None:
        self._session = session
        self._task = task
        self._collector: Any = None
        self._version = ""
        self.facts: dict[str, Any] = {}

    @property
    def is_over(self) -> bool:
        return self.facts.get("info.state") in _OVER

    def wait(self, seconds: int) -> None:
        """Process the updates that arrive within *seconds*, if any."""
        try:
            for _ in range(self._session.retry_policy.max_updates):
                if not self._session.repeat(lambda: self._update(seconds), "wait for a task"):
                    return
        except vmodl.fault.HostCommunication as fault:
            raise TaskGone(
                f"the state of task {self._task._moId} cannot be read: {text_of(fault)}"
            ) from fault
        except _STALE as fault:
            if getattr(fault, "obj", None) == self._task:
                raise TaskGone(f"the server no longer knows task {self._task._moId}") from fault
            log.info("restarting the wait for a task: %s", text_of(fault))
            self._collector = None
        else:
            raise SourceUnavailable(
                f"{self._session.address} did not complete the updates of a task in "
                f"{self._session.retry_policy.max_updates} answers: check which program answers "
                "there"
            )

    def _update(self, seconds: int) -> bool:
        """Process one set of updates; return whether it was truncated, so that more follow."""
        if self._collector is None:
            self._begin()
        options = Collector.WaitOptions(maxWaitSeconds=seconds)
        try:
            updates = self._collector.WaitForUpdatesEx(self._version, options)
            if updates is None:
                return False
            for filtered in updates.filterSet:
                self._take_all(filtered)
        except vim.fault.NotAuthenticated:
            self._collector = None  # it ended with the session
            raise
        self._version = updates.version
        return bool(updates.truncated)

    def _take_all(self, filtered: Any) -> None:
        """Process the updates of one filter; raise the fault of a property that is missing."""
        for missing in (*filtered.missingSet, *self._missing(filtered)):
            raise missing.fault
        for item in filtered.objectSet:
            if item.kind == "leave":
                raise vmodl.fault.ManagedObjectNotFound(obj=self._task)
            for change in item.changeSet:
                self._take(change.name, change.val)

    @staticmethod
    def _missing(filtered: Any) -> Iterator[Any]:
        """Yield the properties that could not be read; unset properties are not among them."""
        for item in filtered.objectSet:
            yield from item.missingSet

    def _take(self, name: str, value: Any) -> None:
        """Store a change, which is one member or, from some servers, the whole info."""
        if name == "info":
            self.facts.update({f"info.{key}": getattr(value, key) for key in ("state", "error")})
            self.facts["info.result"] = value.result
        else:
            self.facts[name] = value

    def _begin(self) -> None:
        self.facts.clear()
        self._version = ""
        collector = self._session.content.propertyCollector.CreatePropertyCollector()
        collector.CreateFilter(
            Collector.FilterSpec(
                objectSet=[Collector.ObjectSpec(obj=self._task, skip=False)],
                propSet=[Collector.PropertySpec(type=vim.Task, pathSet=list(_PATHS))],
            ),
            True,
        )
        self._collector = collector

    def close(self) -> None:
        if self._collector is None:
            return
        try:
            self._session.repeat(self._collector.DestroyPropertyCollector, "destroy a collector")
        except (vmodl.MethodFault, SourceUnavailable) as exc:
            log.debug("a collector remains until the session ends: %s", exc)
