"""Waiting for a task, by WaitForUpdatesEx with a time limit of its own.

pyVim.task.WaitForTask has no limit on the server's side, notices its own only when an update
arrives, and does not survive the end of a session.
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
    """A task did not end in time; it was cancelled."""


class TaskGone(SourceUnavailable):
    """The server does not know the task any more: how it ended is to be seen elsewhere."""


def wait_task(
    session: Session,
    task: Any,
    what: str,
    seconds: float | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Any:
    """The result of *task*; its error is raised as the fault that it is.

    TaskTimeout after *seconds*, Stopped once *is_stopped* says so; both cancel the task. TaskGone
    if the server forgot it.
    """
    limit = session.retry_policy.task if seconds is None else seconds
    watch = _Watch(session, task)
    try:
        due = time.monotonic() + limit
        while not watch.is_over:
            left = due - time.monotonic()
            if left <= 0:
                _cancel(session, task)
                raise TaskTimeout(f"{what}: not done in {limit:.0f} s, cancelled: see the server")
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


class _Watch:
    """What is known of one task, kept up by a collector of its own."""

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
        """Take in the next updates, or none if there are none within *seconds*."""
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
                raise TaskGone(f"task {self._task._moId} is not known any more") from fault
            log.info("waiting for a task anew: %s", text_of(fault))
            self._collector = None
        else:
            raise SourceUnavailable(
                f"{self._session.address} has not completed its updates on a task after "
                f"{self._session.retry_policy.max_updates} answers: see what answers there"
            )

    def _update(self, seconds: int) -> bool:
        """Whether the server has more to say at once: the set of updates was truncated."""
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
            self._collector = None  # it ended with its session
            raise
        self._version = updates.version
        return bool(updates.truncated)

    def _take_all(self, filtered: Any) -> None:
        """The updates of one filter; what could not be read is raised as the fault that it is."""
        for missing in (*filtered.missingSet, *self._missing(filtered)):
            raise missing.fault
        for item in filtered.objectSet:
            if item.kind == "leave":
                raise vmodl.fault.ManagedObjectNotFound(obj=self._task)
            for change in item.changeSet:
                self._take(change.name, change.val)

    @staticmethod
    def _missing(filtered: Any) -> Iterator[Any]:
        """Properties that were not read; an unset property is not among them."""
        for item in filtered.objectSet:
            yield from item.missingSet

    def _take(self, name: str, value: Any) -> None:
        """A change is of one member, or of the whole info where the server likes that better."""
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
            self._session.repeat(self._collector.DestroyPropertyCollector, "end a wait")
        except (vmodl.MethodFault, SourceUnavailable) as exc:
            log.debug("a collector is left to its session: %s", exc)
