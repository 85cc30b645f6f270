"""The loop of a watch: select VMs, read updates, survive lost sessions and restarts."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cbtfs.core.watch.events import Event
from cbtfs.core.watch.tracker import Tracker
from cbtfs.errors import CbtfsError, SourceUnavailable, UsageError
from cbtfs.source.vsphere.connect.faults import ReplyLost
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import ListedVm, list_vms, select_all, unescaped
from cbtfs.source.vsphere.watch.collector import CollectorLost, VmFilter

log = logging.getLogger(__name__)

_EARLY: Final = 0.5
"""A wait that ends without updates before this part of its time counts as a refusal to wait."""


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Times in seconds."""

    poll: float | None = None
    """Interval of CheckForUpdates; None: wait with WaitForUpdatesEx."""
    wait: int = 30
    """Maximum duration of one wait for updates."""
    select: float = 300.0
    """Interval at which the VMs are selected again, to find new ones."""
    pause: float = 5.0
    """Pause after the server could not be read."""


@dataclass(frozen=True, slots=True)
class VmEvent:
    """An event, and the VM that it concerns."""

    kind: str
    vm: ListedVm | None
    """None for events of the watch itself."""
    name: str
    """The present name of the VM."""
    members: Mapping[str, Any] = field(default_factory=dict)
    is_trigger: bool = False


class Follower:
    """Follows the VMs that names and patterns match. One thread runs it, others may stop it."""

    def __init__(
        self,
        session: Session,
        wanted: Sequence[str],
        stop: threading.Event,
        on_events: Callable[[Sequence[VmEvent]], None],
        times: WatchTimes | None = None,
    ) -> None:
        """*on_events* is called with the events of one version, in the thread of `run`."""
        self._session = session
        self._wanted = wanted
        self._stop = stop
        self._on_events = on_events
        self._times = times or WatchTimes()
        self._tracker = Tracker(time.monotonic)
        self._known: dict[str, ListedVm] = {}
        self._filter: VmFilter | None = None
        self._trouble = ""

    def select(self) -> list[tuple[str, CbtfsError]]:
        """Select the VMs before the start; return the names that match none, or several.

        UsageError if no name matches.
        """
        selection = select_all(list_vms(self._session), self._wanted)
        if not selection.vms:
            raise UsageError("; ".join(str(error) for _, error in selection.refused))
        return selection.refused

    def run(self) -> None:
        """Follow the VMs until *stop* is set.

        Raises:
            AccessDenied: the server refuses the login.
        """
        while not self._stop.is_set():
            try:
                self._follow()
            except CollectorLost as exc:
                if not self._stop.is_set():
                    log.info("following the VMs again: %s", exc)
                    self._stop.wait(min(1.0, self._times.pause))
            except (SourceUnavailable, ReplyLost) as exc:
                self._note(str(exc))
                self._stop.wait(self._times.pause)

    def _note(self, trouble: str) -> None:
        """Log why the VMs cannot be followed; the same reason once, as it may last for days."""
        if not self._stop.is_set():
            level = logging.INFO if trouble == self._trouble else logging.WARNING
            log.log(level, "the VMs cannot be followed, trying again: %s", trouble)
            self._trouble = trouble

    def cancel(self) -> None:
        """End a wait in progress, after *stop* was set."""
        current = self._filter
        if current is not None:
            current.cancel()

    def _follow(self) -> None:
        """Follow the VMs with one filter, until it ends."""
        vms = self._select()
        self._filter = VmFilter(self._session, vms, is_polling=self._times.poll is not None)
        try:
            self._read(self._filter)
        finally:
            if not self._session.is_lost:
                self._filter.close()

    def _read(self, vms: VmFilter) -> None:
        """Report what the filter reports, until it ends or *stop* is set."""
        self._tracker.begin()
        is_begun, due = False, time.monotonic() + self._times.select
        while not self._stop.is_set():
            began = time.monotonic()
            wait = max(1, min(self._times.wait, int(due - began)))
            piece = vms.wait(wait)
            if piece is not None:
                self._tracker.apply(piece.updates)
            is_empty = piece is None and vms.vms == 0 and not is_begun
            if is_empty or (piece is not None and piece.is_last):
                self._report(is_first=not is_begun)
                is_begun = True
            if time.monotonic() >= due:
                vms.add(self._select())
                due = time.monotonic() + self._times.select
            if piece is None or (self._times.poll is not None and piece.is_last):
                self._pause(time.monotonic() - began, wait)

    def _pause(self, spent: float, wait: int) -> None:
        """Wait before the next call, if the call itself did not wait."""
        if self._times.poll is not None:
            self._stop.wait(self._times.poll)
        elif spent < wait * _EARLY:
            self._stop.wait(min(1.0, self._times.pause))

    def _select(self) -> list[ListedVm]:
        """Return the VMs to follow now.

        A VM that was followed stays so under another name, too: if it left the view, the changes
        just before that would be lost.
        """
        listed = list_vms(self._session)
        selected = {vm.id for vm in select_all(listed, self._wanted).vms}
        vms = [vm for vm in listed if vm.id in selected or vm.id in self._known]
        in_view = {vm: known for vm, known in self._known.items() if self._tracker.covers(vm)}
        self._known = in_view | {vm.id: vm for vm in vms}
        return vms

    def _report(self, *, is_first: bool) -> None:
        events = self._tracker.settle()
        found = [self._vm_event(event) for event in events]
        if is_first:
            self._trouble = ""
            members = {"server": str(self._session.address), "vms": self._tracker.vms}
            found.insert(0, VmEvent("connected", None, "", members))
        if found:
            self._on_events(found)

    def _vm_event(self, event: Event) -> VmEvent:
        listed = self._known.get(event.vm)
        spelled = self._tracker.name(event.vm)
        if listed is not None and spelled is not None:
            # The VM may have been renamed since it was selected.
            path = f"{listed.path.rpartition('/')[0]}/{spelled}"
            listed = replace(listed, name=unescaped(spelled), path=path)
        name = event.vm if listed is None else listed.name
        return VmEvent(event.kind, listed, name, event.members, event.is_trigger)
