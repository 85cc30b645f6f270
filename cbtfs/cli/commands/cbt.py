"""`cbtfs cbt`: show, enable and reset change tracking of virtual machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.lazy_commands import SuggestingGroup
from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.options.groups import expand_groups
from cbtfs.cli.options.login import Login, LoginOptions, VmNames
from cbtfs.cli.report.exit_status import Failed, conclude, failed_documents
from cbtfs.cli.report.output import emit, note, print_table, say
from cbtfs.errors import CbtfsError

if TYPE_CHECKING:
    from cbtfs.source.vsphere.cbt.switch import Switched
    from cbtfs.source.vsphere.cbt.tracking import DiskTracking
    from cbtfs.source.vsphere.connect.session import Session
    from cbtfs.source.vsphere.inventory.machine import Machine
    from cbtfs.source.vsphere.inventory.vms import ListedVm

Jobs = Annotated[int, typer.Option(metavar="N", min=1, help="VMs processed at once.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(cls=SuggestingGroup, rich_markup_mode=None)
    login = "--server vc1 --user backup@vsphere.local"
    group.callback(epilog=example(f"cbtfs cbt status {login} 'web*'"))(_cbt)
    group.command(epilog=example(f"cbtfs cbt status {login} 'web*'"))(expand_groups(status))
    group.command(epilog=example(f"cbtfs cbt enable {login} web1 db1"))(expand_groups(enable))
    group.command(epilog=example(f"cbtfs cbt reset {login} web1"))(expand_groups(reset))
    app.add_typer(group, name="cbt")


def _cbt() -> None:
    """Show, enable or reset change tracking of VMs.

    Changed Block Tracking (CBT) of vSphere makes incremental captures possible. 'status' changes
    nothing; 'enable' and 'reset' reconfigure VMs and stun those that are running.
    """


def status(
    context: typer.Context,
    vm: VmNames,
    server: LoginOptions,
    json: Json = False,
) -> None:
    """Show the state of change tracking of each VM and disk.

    Nothing is changed. A disk whose changes are not tracked is shown with the reason; each run
    reads such a disk whole.
    """
    with server.resolve(context).login().session() as session:
        from cbtfs.source.vsphere.inventory.machine import load_machines
        from cbtfs.source.vsphere.inventory.vms import list_vms, select_all

        selection = select_all(list_vms(session), vm)
        states = load_machines(session, selection.vms)
    failed = list(selection.refused)
    done: list[_Shown] = []
    for listed in selection.vms:
        state = states[listed.id]
        if isinstance(state, CbtfsError):
            failed.append((listed.name, state))
        else:
            done.append((listed, state))
    _report(done, failed, [_document(listed, machine) for listed, machine in done], as_json=json)
    _advise(done)
    conclude(failed, is_any_done=bool(done), is_whole=True)


def enable(
    context: typer.Context,
    vm: VmNames,
    server: LoginOptions,
    jobs: Jobs = 1,
    json: Json = False,
) -> None:
    """Enable change tracking of VMs.

    A running VM is stunned once, by a snapshot that is created and removed. A VM with a snapshot
    or with disks that need consolidation is refused. The next capture reads all disks whole.
    """
    from cbtfs.source.vsphere.cbt.switch import enable as run

    _switch(server.resolve(context).login(), vm, run, jobs, as_json=json, is_reset=False)


def reset(
    context: typer.Context,
    vm: VmNames,
    server: LoginOptions,
    jobs: Jobs = 1,
    json: Json = False,
) -> None:
    """Reset change tracking of VMs whose change lists are wrong.

    Tracking is disabled and enabled again, each time with a stun as in VMware's procedure; a
    powered-off VM is not stunned. The next capture reads all disks of the VM whole.
    """
    from cbtfs.source.vsphere.cbt.switch import reset as run

    _switch(server.resolve(context).login(), vm, run, jobs, as_json=json, is_reset=True)


_Shown = tuple["ListedVm", "Machine"]
_Run = Callable[["Session", "ListedVm", Callable[[], bool]], "Switched"]


def _switch(
    login: Login, names: Sequence[str], run: _Run, jobs: int, *, as_json: bool, is_reset: bool
) -> None:
    from cbtfs.ingest.fleet.pool import Rules, run_all
    from cbtfs.ingest.fleet.schedule import FleetLimits
    from cbtfs.source.vsphere.inventory.vms import list_vms, select_all

    stop = threading.Event()
    with login.session(stop) as session:
        selection = select_all(list_vms(session), names)
        rules: Rules[ListedVm, Switched] = Rules(FleetLimits(jobs))
        results = run_all(selection.vms, lambda vm: run(session, vm, stop.is_set), stop, rules)
    failed = selection.refused + [(vm.name, error) for vm, error in results.failed]
    shown = [(vm, switched.machine) for vm, switched in results.done]
    documents = [
        {
            **_document(vm, switched.machine),
            "done": list(switched.done),
            "warnings": list(switched.warnings),
        }
        for vm, switched in results.done
    ]
    _report(shown, failed, documents, as_json=as_json)
    for vm, switched in results.done:
        for word in switched.done or ("nothing to do: changes are already tracked",):
            note(f"{vm.name}: {word}")
        if is_reset:
            note(f"{vm.name}: the next capture reads all its disks whole")
        for warning in switched.warnings:
            say(f"{vm.name}: {warning}")
    conclude(
        failed,
        is_any_done=bool(results.done),
        is_whole=not any(switched.warnings for _, switched in results.done),
    )


def _advise(shown: Sequence[_Shown]) -> None:
    """Report the obstacles that prevent tracking from being enabled."""
    from cbtfs.source.vsphere.cbt.switch import obstacle
    from cbtfs.source.vsphere.cbt.tracking import tracking_of
    from cbtfs.source.vsphere.snapshots.stun import left_by_stuns

    for vm, machine in shown:
        why = obstacle(machine)
        if why is not None and (tracking_of(machine).missing or left_by_stuns(machine.snapshots)):
            say(f"{vm.name}: {why}")


def _report(
    shown: Sequence[_Shown], failed: Failed, documents: list[dict[str, Any]], *, as_json: bool
) -> None:
    if as_json:
        emit({"vms": documents, "failed": failed_documents(failed)})
    elif shown:
        print_table(("vm", "cbt", "disk", "setting", "change ID", "reason"), _rows(shown))


def _rows(shown: Sequence[_Shown]) -> Iterator[tuple[str, ...]]:
    from cbtfs.source.vsphere.cbt.tracking import tracking_of

    for vm, machine in shown:
        tracking = tracking_of(machine)
        for disk in tracking.disks:
            yield (
                vm.name,
                tracking.word,
                disk.disk.label,
                {True: "on", False: "off", None: "none"}[disk.switch],
                "none" if disk.disk.change_id is None else "yes",
                disk.reason or "",
            )
        if not tracking.disks:
            yield (vm.name, tracking.word, "", "", "", "no disks")


def _document(vm: ListedVm, machine: Machine) -> dict[str, Any]:
    from cbtfs.source.vsphere.cbt.switch import obstacle
    from cbtfs.source.vsphere.cbt.tracking import tracking_of

    tracking = tracking_of(machine)
    return {
        "vm": vm.name,
        "path": vm.path,
        "power": machine.power,
        "hardware": str(machine.config.version),
        "supported": tracking.is_supported,
        "enabled": tracking.is_enabled,
        "pending": tracking.is_pending,
        "snapshots": [snapshot.name for snapshot in machine.snapshots],
        "obstacle": obstacle(machine),
        "disks": [_disk_document(disk) for disk in tracking.disks],
    }


def _disk_document(disk: DiskTracking) -> dict[str, Any]:
    return {
        "disk": disk.disk.label,
        "key": disk.disk.key,
        "slot": disk.disk.slot,
        "setting": disk.switch,
        "change_id": disk.disk.change_id,
        "can_track": disk.can_track,
        "tracked": disk.is_tracked,
        "reason": disk.reason,
    }
