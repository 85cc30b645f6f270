"""Capture VMs of one server into an open repository, for every command that does so."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cbtfs.ingest.fleet.pool import Ended, Results, Rules, run_all
from cbtfs.ingest.fleet.schedule import FleetLimits
from cbtfs.ingest.inputs import OnDisk
from cbtfs.ingest.vsphere.attempt import attempt, goes_again, needs_of
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.options import IngestOptions, VmIngestResult
from cbtfs.source.transport.base import Transport
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.store.repository import Repository


@dataclass(frozen=True, slots=True)
class CaptureSetup:
    """How VMs are captured."""

    options: IngestOptions
    limits: FleetLimits
    transports: Callable[[Session], Sequence[Transport]]
    """Returns the transports to try, in order of preference."""
    level: int | None = None
    """zstd level of new data; None: that of the repository."""
    threads: int | None = None
    """Threads that read a disk; None: one for each core."""


@dataclass(frozen=True, slots=True)
class CaptureReports:
    """Callbacks that report on captures."""

    on_disk: Callable[[ListedVm], OnDisk]
    """Returns the callback that shows the progress of a VM's disks."""
    on_end: Callable[[Ended[ListedVm, VmIngestResult]], None]
    """Called with the result of each VM, by one thread at a time."""


def capture_all(
    repository: Repository,
    session: Session,
    setup: CaptureSetup,
    vms: Sequence[ListedVm],
    reports: CaptureReports,
    stop: threading.Event,
) -> Results[ListedVm, VmIngestResult]:
    """Take a restore point of each of *vms*, and return the results.

    A VM that fails does not stop the others. After *stop* is set, the captures in progress clean up
    and fail, and no other one begins.
    """
    objects = repository.object_writer(level=setup.level, threads=setup.threads, commits=len(vms))
    try:
        transports = setup.transports(session)
        context = IngestContext(repository, objects, session, transports, setup.options, stop)
        rules: Rules[ListedVm, VmIngestResult] = Rules(
            setup.limits,
            needs=lambda vm: needs_of(context, vm),
            goes_again=lambda vm, error: goes_again(context, vm, error),
            on_end=reports.on_end,
        )

        def run(vm: ListedVm) -> VmIngestResult:
            return attempt(replace(context, on_disk=reports.on_disk(vm)), vm)

        return run_all(vms, run, stop, rules)
    finally:
        objects.close()
