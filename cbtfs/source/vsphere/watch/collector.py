"""One property filter over VMs, their recent tasks and their hosts, and its updates."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.core.watch.tracker import Update, VmUpdate
from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.faults import (
    NO_ANSWER,
    raise_ended,
    text_of,
    translated_faults,
)
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import (
    Collector,
    properties,
    retrieve_each,
    walk,
)
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.watch.reading import HOST_PATHS, TASK_PATHS, VM_PATHS, Reader

log = logging.getLogger(__name__)

_STALE: Final = (
    vmodl.query.InvalidCollectorVersion,
    vmodl.fault.ManagedObjectNotFound,
    vmodl.fault.RequestCanceled,
)
"""Faults after which a new collector is needed: the session ended, or its objects did."""


class CollectorLost(SourceUnavailable):
    """Raised when the filter ended, with its session or alone; a new one can be created."""


@dataclass(frozen=True, slots=True)
class UpdatePiece:
    """A part of the updates of one version."""

    updates: list[Update]
    is_last: bool
    """No part of this version follows."""


class VmFilter:
    """A property filter of a session; it ends with the session's login.

    The filter is on a list view, to which VMs are added. A removed VM leaves the filter.
    """

    def __init__(self, session: Session, vms: Iterable[ListedVm], *, is_polling: bool) -> None:
        """Create the filter. *is_polling*: no call waits for updates.

        Raises:
            CollectorLost: a VM was removed, or the login ended, meanwhile.
            SourceUnavailable, AccessDenied: the server refuses the filter.
        """
        self._session = session
        self._is_polling = is_polling
        self._objects = {vm.id: vm.object for vm in vms}
        self._version = ""
        self._is_truncated = False
        self._pieces = 0
        self._unreadable: set[tuple[str, str]] = set()
        self._reader = Reader(str(session.address), _user(session))
        self._collector, self._view = self._make()

    def _make(self) -> tuple[Any, Any]:
        content = self._session.content
        objects = list(self._objects.values())
        with _lost("create a filter"):
            view = self._session.repeat(
                lambda: content.viewManager.CreateListView(objects), "create a view"
            )
            collector = self._session.repeat(
                content.propertyCollector.CreatePropertyCollector, "create a collector"
            )
            self._session.repeat(
                lambda: collector.CreateFilter(_specification(view), False), "create a filter"
            )
        return collector, view

    @property
    def vms(self) -> int:
        """Number of VMs in the view."""
        return len(self._objects)

    def add(self, vms: Iterable[ListedVm]) -> None:
        """Add the VMs of *vms* that are not in the view; removed ones leave it by themselves."""
        wanted = {vm.id: vm.object for vm in vms}
        added = [wanted[vm] for vm in wanted if vm not in self._objects]
        if added:
            with _lost("change a view"):
                self._session.repeat(lambda: self._view.ModifyListView(added, []), "change a view")
        self._objects = wanted

    def wait(self, seconds: int) -> UpdatePiece | None:
        """Return the updates that arrive within *seconds*, or None; poll once if it is 0.

        Raises:
            CollectorLost: create a new filter, whose first updates are the whole state.
            SourceUnavailable: the server does not answer, or not as a vSphere server does.
        """
        with _lost("wait for updates"):
            found = self._session.repeat(lambda: self._next(seconds), "wait for updates")
            if found is None:
                return None
            return self._piece(found)

    def _next(self, seconds: int) -> Any:
        """Return the next UpdateSet.

        If the login ended, the session renews it and calls again. The collector is then unknown.
        """
        if self._is_polling and not self._is_truncated:
            found = self._collector.CheckForUpdates(self._version)
        else:
            is_now = self._is_polling or self._is_truncated
            options = Collector.WaitOptions(maxWaitSeconds=0 if is_now else seconds)
            found = self._collector.WaitForUpdatesEx(self._version, options)
        for item in _items(found):
            raise_ended(item.missingSet)
        return found

    def _piece(self, found: Any) -> UpdatePiece:
        self._pieces = self._pieces + 1 if found.truncated else 0
        if self._pieces > self._session.retry_policy.max_updates + self.vms:
            raise SourceUnavailable(
                f"{self._session.address} did not complete the updates of a version in "
                f"{self._pieces} answers: check which program answers there"
            )
        updates: list[Update] = []
        partial: list[Any] = []
        for item in _items(found):
            if self._is_foreign(item):
                continue
            self._note_missing(item)
            update, is_partial = self._reader.updates(item)
            updates += update
            if is_partial:
                partial.append(item.obj)
        updates += self._read_again(partial)
        self._version, self._is_truncated = str(found.version), bool(found.truncated)
        return UpdatePiece(updates, not self._is_truncated)

    def _is_foreign(self, item: Any) -> bool:
        """Return whether a VM appears that is not in the view: it is ignored."""
        is_vm = isinstance(item.obj, vim.VirtualMachine) and item.kind != "leave"
        return is_vm and str(item.obj._moId) not in self._objects

    def _read_again(self, vms: Sequence[Any]) -> Iterator[Update]:
        """Yield the whole facts of VMs of which only parts of properties were reported."""
        if not vms:
            return
        wanted = [properties(vim.VirtualMachine, *VM_PATHS)]
        for item in retrieve_each(self._session, vms, wanted):
            facts = self._reader.facts(item.values, is_whole=True, missing=item.missing)
            yield VmUpdate(item.id, facts)

    def _note_missing(self, item: Any) -> None:
        """Log once which properties cannot be read; their facts keep their values."""
        for missing in item.missingSet or ():
            key = (str(item.obj._moId), str(missing.path))
            if key not in self._unreadable and key[0] in self._objects and key[1] in VM_PATHS:
                self._unreadable.add(key)
                log.warning("cannot read %s of %s: %s", key[1], key[0], text_of(missing.fault))

    def cancel(self) -> None:
        """End the call that waits, if there is one; safe to call from another thread."""
        try:
            self._collector.CancelWaitForUpdates()
        except (vmodl.MethodFault, *NO_ANSWER) as exc:
            log.debug("no wait was cancelled: %s", type(exc).__name__)

    def close(self) -> None:
        """Destroy view and filter, unless the session or the server is gone."""
        for destroy in (self._collector.DestroyPropertyCollector, self._view.DestroyView):
            try:
                destroy()
            except (vmodl.MethodFault, *NO_ANSWER) as exc:
                log.debug("an object remains until the session ends: %s", type(exc).__name__)


def _specification(view: Any) -> Any:
    """Return the specification of the filter: the VMs of a view, their tasks and hosts."""
    start = Collector.ObjectSpec(
        obj=view,
        skip=True,
        selectSet=[
            walk("vms", vim.view.ListView, "view", "tasks", "hosts"),
            walk("tasks", vim.VirtualMachine, "recentTask"),
            walk("hosts", vim.VirtualMachine, "runtime.host"),
        ],
    )
    return Collector.FilterSpec(
        objectSet=[start],
        propSet=[
            properties(vim.VirtualMachine, *VM_PATHS),
            properties(vim.Task, *TASK_PATHS),
            properties(vim.HostSystem, *HOST_PATHS),
        ],
    )


def _items(found: Any) -> Iterator[Any]:
    """Yield the ObjectUpdates of an UpdateSet that name an object."""
    for filtered in getattr(found, "filterSet", None) or ():
        yield from (item for item in filtered.objectSet if item.obj is not None)


def _user(session: Session) -> str:
    """Return the user of the session as the server names it in tasks."""
    what = "read the session"
    with translated_faults(what):
        current = session.repeat(lambda: session.content.sessionManager.currentSession, what)
    return str(getattr(current, "userName", None) or session.user)


@contextmanager
def _lost(what: str) -> Iterator[None]:
    """Raise CollectorLost if an object of the session is gone; translate other faults."""
    with translated_faults(what):
        try:
            yield
        except _STALE as fault:
            raise CollectorLost(f"{what}: {text_of(fault)}") from fault
