"""Capture VMs after events, beside the watch that reports the events."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.watch.capture_queue import CaptureQueue
from cbtfs.errors import CbtfsError, RepositoryLocked
from cbtfs.ingest.fleet.pool import Ended
from cbtfs.ingest.inputs import no_progress
from cbtfs.ingest.vsphere.captures import CaptureReports, CaptureSetup, capture_all
from cbtfs.ingest.vsphere.options import VmIngestResult
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import ListedVm, list_vms
from cbtfs.store.repository import Repository, writing

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
"""Interval of checks whether a capture is due, or whether the repository is unlocked."""


@dataclass(frozen=True, slots=True)
class TriggeredCapture:
    """The end of a capture that events caused."""

    vm: ListedVm
    reasons: Sequence[str]
    """Kinds of the events."""
    result: VmIngestResult | CbtfsError
    seconds: float


@dataclass(frozen=True, slots=True)
class TriggerPolicy:
    """When VMs are captured, in seconds."""

    interval: float
    """Minimum time between the starts of two captures of a VM."""
    lock_wait: float
    """Maximum wait for another writer of the repository."""


class TriggeredCaptures:
    """Captures VMs one batch after the other; `add` and `drop` may be called by any thread.

    The repository is open during a batch only, so other commands can write between captures.
    """

    def __init__(
        self,
        repository: Path,
        session: Session,
        setup: CaptureSetup,
        policy: TriggerPolicy,
        on_end: Callable[[TriggeredCapture], None],
    ) -> None:
        self._repository = repository
        self._session = session
        self._setup = setup
        self._policy = policy
        self._on_end = on_end
        self._lock = threading.Lock()
        self._queue = CaptureQueue(policy.interval)
        self._vms: dict[str, ListedVm] = {}

    def add(self, vm: ListedVm, reason: str) -> None:
        """Request a capture of a VM."""
        with self._lock:
            self._vms[vm.id] = vm
            self._queue.add(vm.id, reason)

    def drop(self, vm: str) -> None:
        """Withdraw the requests of a VM that is gone."""
        with self._lock:
            self._queue.drop(vm)
            self._vms.pop(vm, None)

    def run(self, stop: threading.Event) -> None:
        """Capture VMs until *stop* is set; captures in progress then clean up and fail."""
        while not stop.wait(_POLL_SECONDS):
            with self._lock:
                reasons = self._queue.take(time.monotonic())
                vms = [self._vms.pop(vm) for vm in reasons]
            if vms:
                self._capture(vms, reasons, stop)

    def _capture(
        self, vms: Sequence[ListedVm], reasons: Mapping[str, Sequence[str]], stop: threading.Event
    ) -> None:
        began = time.monotonic()
        waiting = {vm.id: vm for vm in vms}

        def end(ended: Ended[ListedVm, VmIngestResult]) -> None:
            waiting.pop(ended.item.id, None)
            self._on_end(
                TriggeredCapture(ended.item, reasons[ended.item.id], ended.result, ended.seconds)
            )

        try:
            # A VM may have been renamed since the event; the point has its present name.
            listed = {vm.id: vm for vm in list_vms(self._session)}
            with ExitStack() as opened:
                repository = self._open(opened, stop)
                present = [listed[vm] for vm in waiting if vm in listed]
                reports = CaptureReports(lambda vm: no_progress, end)
                capture_all(repository, self._session, self._setup, present, reports, stop)
            why = CbtfsError("it was removed in the meantime")
        except CbtfsError as exc:
            why = exc
        if not stop.is_set():
            for vm in waiting.values():
                self._on_end(TriggeredCapture(vm, reasons[vm.id], why, time.monotonic() - began))

    def _open(self, opened: ExitStack, stop: threading.Event) -> Repository:
        """Open the repository; RepositoryLocked if another writer keeps it for too long."""
        due = time.monotonic() + self._policy.lock_wait
        while True:
            try:
                return opened.enter_context(writing(self._repository))
            except RepositoryLocked as exc:
                if stop.is_set() or time.monotonic() >= due:
                    raise
                log.info("a capture waits: %s", exc)
            stop.wait(_POLL_SECONDS)
