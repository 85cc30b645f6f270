"""`cbtfs doctor`: find problems that block the capture of virtual machines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.options.arguments import Json, duration_parser, example
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.options.groups import expand_groups
from cbtfs.cli.options.login import LoginOptions, VmNames
from cbtfs.cli.options.transports import TransportOptions
from cbtfs.cli.report.exit_status import conclude, failed_documents
from cbtfs.cli.report.nfc_trial import of_trial, trial_lines
from cbtfs.cli.report.output import emit, print_lines
from cbtfs.errors import CbtfsError, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.options.login import Login
    from cbtfs.doctor.examine import DoctorReport, ObjectReport, VmReport
    from cbtfs.doctor.finding import Finding
    from cbtfs.source.transport.nfc.options import NfcOptions

log = logging.getLogger(__name__)

NfcPort = Annotated[
    int,
    typer.Option(
        "--nfc-port",
        metavar="N",
        min=1,
        max=65535,
        help="NFC port of ESXi hosts, which serves disks to VDDK.",
    ),
]
HttpsPort = Annotated[
    int,
    typer.Option("--https-port", metavar="N", min=1, max=65535, help="HTTPS port of ESXi hosts."),
]
Seconds = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="T",
        parser=duration_parser(0.1),
        help="Maximum time to wait for a port to answer: 3s, 1m.",
    ),
]


TryNfc = Annotated[
    bool,
    typer.Option(
        "--try-nfc",
        help="Read up to 64 MiB of a disk of a VM that is off by NFC and by HTTPS, compare, and "
        "print a report without names and secrets.",
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs doctor --server vc1 --user backup@vsphere.local \\",
            "    --password-file /etc/cbtfs/vc1 'web*' db1",
        )
    )(expand_groups(doctor))


def doctor(
    context: typer.Context,
    vm: VmNames,
    server: LoginOptions,
    transport: TransportOptions,
    https_port: HttpsPort = 443,
    nfc_port: NfcPort = 902,
    timeout: Seconds = 3.0,
    try_nfc: TryNfc = False,
    json: Json = False,
) -> None:
    """Find problems that block the capture of VMs, and suggest fixes.

    Privileges, hosts, ports, datastores, snapshots, change tracking and the installed transports
    are examined. If a repository is given, the areas that no capture has read yet are reported,
    too. Nothing is changed. The exit code is 3 if the capture of a VM is blocked.

    With --try-nfc, one VM that is off is read instead, to find out whether NFC works with its host.
    """
    transport.check()
    if try_nfc:
        _try_nfc(server.resolve(context).login(), vm, transport.nfc_options(), is_json=json)
        return
    login = server.resolve(context).login()
    with login.session() as session:
        from cbtfs.doctor.examine import Exam, examine
        from cbtfs.source.transport.login import VDDK
        from cbtfs.source.vsphere.inventory.vms import list_vms, select_all

        selection = select_all(list_vms(session), vm)
        ways = transport.transports(session, probes_each_vm=False)
        exam = Exam(ways, transport.vddk_libdir or VDDK, https_port, nfc_port, timeout)
        report = examine(session, selection.vms, exam)
        proofs = _proofs(context, session.server_id)
        for vm_report in report.vms:
            vm_report.findings.extend(proofs.get(vm_report.vm.identity, ()))
        about = session.content.about
        product, api = str(about.fullName), str(about.apiVersion)
    failed = selection.refused
    if json:
        emit(
            {
                "server": {
                    "name": str(login.address),
                    "product": product,
                    "api": api,
                    "findings": _findings(report.server),
                },
                "hosts": [_of_object(host) for host in report.hosts],
                "datastores": [_of_object(datastore) for datastore in report.datastores],
                "vms": [_of_vm(vm_report) for vm_report in report.vms],
                "failed": failed_documents(failed),
            }
        )
    else:
        print_lines(_lines(f"server {login.address}: {product}", report))
    is_clear = not any(vm_report.blocked_by for vm_report in report.vms)
    conclude(failed, is_any_done=bool(report.vms), is_whole=is_clear)


def _try_nfc(login: Login, names: list[str], options: NfcOptions, *, is_json: bool) -> None:
    """Print the report of a trial; exit with the code of its error."""
    from cbtfs.doctor.nfc_trial import try_nfc
    from cbtfs.source.vsphere.inventory.vms import list_vms, select_all

    with login.session() as session:
        selection = select_all(list_vms(session), names)
        for _, error in selection.refused:
            raise error
        if len(selection.vms) != 1:
            raise UsageError(f"--try-nfc reads one VM, not {len(selection.vms)}: name one")
        trial = try_nfc(session, selection.vms[0], options)
    if is_json:
        emit(of_trial(trial))
    else:
        print_lines(trial_lines(trial))
    if trial.error is not None:
        raise typer.Exit(trial.error.exit_code)


def _proofs(context: typer.Context, server_id: str) -> dict[str, list[Finding]]:
    """Return the findings about unread areas by VM; none without a repository that can be read."""
    from cbtfs.doctor.proof import newest_points, of_proof
    from cbtfs.store.repository import reading

    try:
        with reading(repository_path(context)) as repository:
            points = newest_points(repository, server_id)
    except CbtfsError as exc:
        log.info("no proven shares: %s", exc)
        return {}
    return {vm: list(of_proof(manifest)) for vm, manifest in points.items()}


def _findings(findings: list[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "check": finding.check,
            "severity": str(finding.severity),
            "text": finding.text,
            "fix": finding.fix or None,
        }
        for finding in findings
    ]


def _of_object(report: ObjectReport) -> dict[str, Any]:
    return {"name": report.name, "findings": _findings(report.findings)}


def _of_vm(report: VmReport) -> dict[str, Any]:
    return {
        "vm": report.vm.name,
        "path": report.vm.path,
        "host": report.host,
        "datastores": report.datastores,
        "transport": report.choice.transport,
        "refused": list(report.choice.refusals),
        "others": list(report.choice.others),
        "blocked_by": report.blocked_by,
        "findings": _findings(report.findings),
    }


def _lines(title: str, report: DoctorReport) -> Iterator[str]:
    yield title
    yield from _finding_lines(report.server)
    for kind, reports in (("host", report.hosts), ("datastore", report.datastores)):
        for place in reports:
            if place.findings:
                yield f"{kind} {place.name}"
                yield from _finding_lines(place.findings)
    for vm_report in report.vms:
        if vm_report.blocked_by:
            elsewhere = [name for name in vm_report.blocked_by if name != "vm"]
            verdict = "blocked" + (f" by {', '.join(elsewhere)}" if elsewhere else "")
        else:
            verdict = f"by {vm_report.choice.transport}"
        yield f"{vm_report.vm.path}: {verdict}"
        yield from _finding_lines(vm_report.findings)


def _finding_lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        fix = f": {finding.fix}" if finding.fix else ""
        yield f"  {finding.severity:<8} {finding.text}{fix}"
