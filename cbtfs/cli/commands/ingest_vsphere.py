"""`cbtfs ingest vsphere`: take restore points of virtual machines."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import (
    AUDIT,
    Audit,
    Json,
    Level,
    LockWait,
    Threads,
    example,
    sampling_of,
)
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.options.login import (
    CaFile,
    PasswordFile,
    Server,
    Thumbprint,
    User,
    VmNames,
    check_trust,
    find_login,
)
from cbtfs.cli.options.transports import (
    NbdUri,
    TransportName,
    VddkLibdir,
    VddkModes,
    check_transport,
    transports,
)
from cbtfs.cli.report.captures import disk_bars, print_point
from cbtfs.cli.report.exit_status import Failed, conclude
from cbtfs.cli.report.fleet import Counted, Names, count_in, document_of, print_fleet
from cbtfs.cli.report.metrics import MetricsFile, Tally, metrics_file
from cbtfs.cli.report.output import emit, say
from cbtfs.core.units import parse_duration
from cbtfs.errors import UsageError
from cbtfs.ingest.fleet.schedule import PER_DATASTORE, PER_HOST, FleetLimits

if TYPE_CHECKING:
    from cbtfs.ingest.fleet.pool import Results
    from cbtfs.ingest.plan import Want
    from cbtfs.ingest.vsphere.options import VmIngestResult
    from cbtfs.source.vsphere.inventory.vms import ListedVm


def add_to(group: typer.Typer) -> None:
    group.command(
        epilog=example(
            "cbtfs ingest vsphere --server vc1 --user backup@vsphere.local web1",
            "cbtfs ingest vsphere --server vc1 --user backup@vsphere.local \\",
            "    --password-file /etc/cbtfs/vc1 --jobs 4 'web*' /DC0/vm/prod/db1",
        )
    )(vsphere)


def vsphere(
    context: typer.Context,
    vm: VmNames,
    server: Server,
    user: User,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    thumbprint: Thumbprint = None,
    transport: TransportName = "auto",
    nbd_uri: NbdUri = None,
    vddk_libdir: VddkLibdir = None,
    vddk_modes: VddkModes = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="VMs at once.")] = 1,
    per_host: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Disks at once of VMs on one ESXi host; 0 for no limit."
        ),
    ] = PER_HOST,
    per_datastore: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="VMs at once that have snapshots on one datastore; 0 for no limit.",
        ),
    ] = PER_DATASTORE,
    include_disk: Annotated[
        list[str] | None,
        typer.Option(metavar="D", show_default=False, help="Only this disk: label or device key."),
    ] = None,
    exclude_disk: Annotated[
        list[str] | None,
        typer.Option(metavar="D", show_default=False, help="Not this disk: label or device key."),
    ] = None,
    quiesce: Annotated[
        bool, typer.Option("--quiesce", help="Have the guest quiesce its file systems.")
    ] = False,
    upgrade_hardware: Annotated[
        bool,
        typer.Option(
            "--upgrade-hardware",
            help="Upgrade the virtual hardware of a VM that is off and cannot track changes.",
        ),
    ] = False,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Leave out disks that cannot be read; exit with 3."),
    ] = False,
    max_snapshot_age: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            show_default=False,
            help="Give up, commit nothing and remove the snapshot after 90s, 30m, 4h, 1d.",
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read all, whatever is known.")] = False,
    incremental_only: Annotated[
        bool,
        typer.Option(
            "--incremental-only",
            help="Exit with 32 (33 if the audit fails) rather than read a whole disk.",
        ),
    ] = False,
    no_resume: Annotated[
        bool,
        typer.Option(
            "--no-resume",
            help="Do not take over the snapshot of a run that ended early: take a new one.",
        ),
    ] = False,
    audit: Audit = AUDIT,
    level: Level = None,
    threads: Threads = None,
    metrics: MetricsFile = None,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Capture virtual machines of a vCenter or ESXi host: all their disks, what changed alone."""
    from cbtfs.ingest.vsphere.options import IngestOptions
    from cbtfs.source.vsphere.connect.address import parse_address
    from cbtfs.store.repository import writing

    limits = FleetLimits(jobs, per_host or None, per_datastore or None)
    if full and incremental_only:
        raise UsageError("--full and --incremental-only exclude each other: give one")
    check_trust(ca_file, thumbprint)
    check_transport(transport)
    want: Want = "full" if full else "incremental" if incremental_only else "auto"
    wishes = IngestOptions(
        want=want,
        quiesce=quiesce,
        upgrade_hardware=upgrade_hardware,
        allow_partial=allow_partial,
        include=tuple(include_disk or ()),
        exclude=tuple(exclude_disk or ()),
        max_snapshot_age=_seconds(max_snapshot_age),
        audit=sampling_of(audit),
        resume=not no_resume,
    )
    path = repository_path(context)
    began = time.monotonic()
    tally = Tally("ingest vsphere", str(parse_address(server)), tuple(vm))
    with metrics_file(metrics, path, tally):
        login = find_login(server, user, password_file, ca_file, thumbprint)
        stop = Event()
        with (
            writing(path, lock_wait=lock_wait) as repository,
            login.session(stop) as session,
            disk_bars(is_wanted=not json and jobs == 1) as announce,
        ):
            from cbtfs.ingest.fleet.pool import Rules, run_all
            from cbtfs.ingest.vsphere.attempt import attempt, goes_again, needs_of
            from cbtfs.ingest.vsphere.vm import IngestContext
            from cbtfs.source.vsphere.inventory.vms import list_vms, select_all

            selection = select_all(list_vms(session), vm)
            names = Names(selection.vms)
            count_in(tally, selection)
            objects = repository.object_writer(level=level, threads=threads)
            try:
                ways = transports(transport, nbd_uri, vddk_libdir, vddk_modes, session)
                ingest_context = IngestContext(
                    repository, objects, session, ways, wishes, stop, announce
                )
                rules: Rules[ListedVm, VmIngestResult] = Rules(
                    limits,
                    needs=lambda each: needs_of(ingest_context, each),
                    goes_again=lambda each, error: goes_again(ingest_context, each, error),
                    on_end=Counted(names, tally),
                )
                results = run_all(
                    selection.vms, lambda each: attempt(ingest_context, each), stop, rules
                )
            finally:
                objects.close()
        _report(results, names, selection.refused, time.monotonic() - began, as_json=json)


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as exc:
        raise UsageError(f"invalid --max-snapshot-age {exc}") from exc


def _report(
    results: Results[ListedVm, VmIngestResult],
    names: Names,
    refused: Failed,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    """Print what became of it all; exit with 3 if that is not all that was wanted."""
    done = [outcome for _, outcome in results.done]
    if as_json:
        emit(document_of(results.ended, refused, seconds))
    elif names.total + len(refused) > 1:
        print_fleet(results.ended, names, refused)
    else:
        for outcome in done:
            print_point(outcome.manifest)
    for each, outcome in results.done:
        vm = names.of(each)
        for note in outcome.notes:
            say(f"{vm}: {note}")
        for left_out in outcome.left_out:
            say(f"{vm}: disk {left_out.disk} is left out: {left_out.reason}")
        for warning in outcome.warnings:
            say(f"{vm}: {warning}")
    failed = [*refused, *((names.of(each), error) for each, error in results.failed)]
    conclude(failed, is_any_done=bool(done), is_whole=all(each.is_whole for each in done))
