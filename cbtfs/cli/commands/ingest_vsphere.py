"""`cbtfs ingest vsphere`: take restore points of virtual machines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from cbtfs.cli.options.arguments import Json, LockWait, duration_parser, example
from cbtfs.cli.options.capture import CaptureOptions
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.options.groups import expand_groups
from cbtfs.cli.options.login import LoginOptions, VmNames
from cbtfs.cli.options.transports import TransportOptions, VddkModes
from cbtfs.cli.report.captures import print_point
from cbtfs.cli.report.exit_status import Failed, conclude
from cbtfs.cli.report.fleet import Names, VmProgress, document_of, print_fleet, record_selection
from cbtfs.cli.report.metrics import MetricsFile, RunCounts, metrics_file
from cbtfs.cli.report.output import emit, note, say
from cbtfs.cli.report.progress import StartWork, captures
from cbtfs.errors import UsageError
from cbtfs.ingest.fleet.schedule import PER_DATASTORE, PER_HOST, FleetLimits

if TYPE_CHECKING:
    from cbtfs.core.proving import Proving
    from cbtfs.ingest.fleet.pool import Results
    from cbtfs.ingest.vsphere.captures import CaptureSetup
    from cbtfs.ingest.vsphere.options import AllocationMethod, VmIngestResult
    from cbtfs.source.vsphere.inventory.vms import ListedVm


def add_to(group: typer.Typer) -> None:
    group.command(
        epilog=example(
            "cbtfs ingest vsphere --server vc1 --user backup@vsphere.local web1",
            "cbtfs ingest vsphere --server vc1 --user backup@vsphere.local \\",
            "    --password-file /etc/cbtfs/vc1 --jobs 4 'web*' /DC0/vm/prod/db1",
        )
    )(expand_groups(vsphere))


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How many VMs and disks are captured at once."""

    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="VMs captured at once.")] = 1
    per_host: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Disks of VMs on one ESXi host read at once; 0: no limit."
        ),
    ] = PER_HOST
    per_datastore: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="VMs with a snapshot on one datastore at once; 0: no limit.",
        ),
    ] = PER_DATASTORE

    def limits(self) -> FleetLimits:
        """Return the limits of the run."""
        return FleetLimits(self.jobs, self.per_host or None, self.per_datastore or None)


@dataclass(frozen=True, slots=True)
class VmOptions:
    """How the snapshot of a VM is taken, and which disks are captured."""

    include_disk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="D", show_default=False, help="Capture only this disk: label or device key."
        ),
    ] = None
    exclude_disk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="D", show_default=False, help="Do not capture this disk: label or device key."
        ),
    ] = None
    quiesce: Annotated[
        bool, typer.Option("--quiesce", help="Quiesce the file systems of the guest.")
    ] = False
    upgrade_hardware: Annotated[
        bool,
        typer.Option(
            "--upgrade-hardware",
            help="Upgrade the virtual hardware of a powered-off VM that is too old for CBT.",
        ),
    ] = False
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Omit disks that cannot be read; exit with 3."),
    ] = False
    max_snapshot_age: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            parser=duration_parser(0),
            show_default=False,
            help="Maximum age of the snapshot: 90s, 30m, 4h or 1d. After it, nothing is "
            "committed and the snapshot is removed.",
        ),
    ] = None
    no_resume: Annotated[
        bool,
        typer.Option(
            "--no-resume",
            help="Take a new snapshot even if an interrupted run can be resumed.",
        ),
    ] = False
    allocation: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Areas that a full does not read. transport: those that the transport calls "
            "unallocated; star: those that vSphere does, if the transport reports none; none: "
            "read everything.",
        ),
    ] = "transport"
    prove: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Share of the areas that the last full did not read, which each later run reads "
            "and compares, such as 1/30 or 5%; 0: none.",
        ),
    ] = "1/30"

    def method(self) -> AllocationMethod:
        """Return how areas to skip are found; UsageError if there is no such way."""
        from cbtfs.ingest.vsphere.options import AllocationMethod

        methods: tuple[AllocationMethod, ...] = get_args(AllocationMethod)
        for method in methods:
            if self.allocation == method:
                return method
        raise UsageError(
            f"unknown --allocation {self.allocation!r}: use one of {', '.join(methods)}"
        )

    def proving(self) -> Proving | None:
        """Return how much of the areas to read; UsageError if --allocation star excludes it."""
        from cbtfs.cli.options.shares import share_of
        from cbtfs.core.proving import Proving

        share = share_of("--prove", self.prove)
        if not share and self.allocation == "star":
            raise UsageError("--allocation star needs the proof of areas: give no --prove 0")
        return Proving(share) if share else None


def vsphere(
    context: typer.Context,
    vm: VmNames,
    login: LoginOptions,
    transport: TransportOptions,
    fleet: FleetOptions,
    vms: VmOptions,
    capture: CaptureOptions,
    vddk_modes: VddkModes = None,
    metrics: MetricsFile = None,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Take restore points of virtual machines of a vCenter or ESXi host.

    For each VM, a snapshot is created, its disks are read, and the snapshot is removed. If Changed
    Block Tracking (CBT) is off, it is enabled first. Later runs read only the changed blocks. A VM
    that fails does not stop the others: the exit code is 3 if some succeeded.
    """
    from cbtfs.source.vsphere.connect.address import parse_address
    from cbtfs.store.repository import writing

    wanted = login.resolve(context)
    setup = capture_setup(transport, fleet, vms, capture, vddk_modes)
    path = repository_path(context)
    began = time.monotonic()
    counts = RunCounts("ingest vsphere", str(parse_address(wanted.server)), tuple(vm))
    with metrics_file(metrics, path, counts):
        server = wanted.login()
        stop = Event()
        with (
            writing(path, lock_wait=lock_wait) as repository,
            server.session(stop) as session,
            captures(is_wanted=not json, is_serial=fleet.jobs == 1) as start,
        ):
            from cbtfs.ingest.vsphere.captures import CaptureReports, capture_all
            from cbtfs.source.vsphere.inventory.vms import list_vms, select_all

            selection = select_all(list_vms(session), vm)
            names = Names(selection.vms)
            record_selection(counts, selection)
            reports = CaptureReports(
                lambda listed: _naming(names.of(listed), start), VmProgress(names, counts)
            )
            results = capture_all(repository, session, setup, selection.vms, reports, stop)
        _report(results, names, selection.refused, time.monotonic() - began, as_json=json)


def capture_setup(
    transport: TransportOptions,
    fleet: FleetOptions,
    vms: VmOptions,
    capture: CaptureOptions,
    vddk_modes: str | None,
) -> CaptureSetup:
    """Return how VMs are captured; UsageError if the options exclude each other."""
    from cbtfs.ingest.vsphere.captures import CaptureSetup
    from cbtfs.ingest.vsphere.options import IngestOptions

    transport.check()
    options = IngestOptions(
        want=capture.want(),
        quiesce=vms.quiesce,
        upgrade_hardware=vms.upgrade_hardware,
        allow_partial=vms.allow_partial,
        include=tuple(vms.include_disk or ()),
        exclude=tuple(vms.exclude_disk or ()),
        max_snapshot_age=vms.max_snapshot_age,
        audit=capture.sampling(),
        resume=not vms.no_resume,
        allocation=vms.method(),
        proving=vms.proving(),
    )
    return CaptureSetup(
        options,
        fleet.limits(),
        lambda session: transport.transports(session, vddk_modes),
        capture.level,
        capture.threads,
    )


def _naming(vm: str, start: StartWork) -> StartWork:
    """Return *start* with the name of the VM before the label of the disk."""
    return lambda label, size: start(f"{vm} {label}", size)


def _report(
    results: Results[ListedVm, VmIngestResult],
    names: Names,
    refused: Failed,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    """Print the results of all VMs; exit with 3 if any VM is incomplete."""
    done = [outcome for _, outcome in results.done]
    if as_json:
        emit(document_of(results.ended, refused, seconds))
    elif names.total + len(refused) > 1:
        print_fleet(results.ended, names, refused)
    else:
        for outcome in done:
            print_point(outcome.manifest)
    for listed, outcome in results.done:
        vm = names.of(listed)
        for text in outcome.notes:
            note(f"{vm}: {text}")
        for left_out in outcome.left_out:
            say(f"{vm}: disk {left_out.disk} is omitted: {left_out.reason}")
        for warning in outcome.warnings:
            say(f"{vm}: {warning}")
    failed = [*refused, *((names.of(listed), error) for listed, error in results.failed)]
    conclude(failed, is_any_done=bool(done), is_whole=all(outcome.is_whole for outcome in done))
