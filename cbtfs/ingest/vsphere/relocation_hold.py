"""Keeping storage vMotion from a VM while it is captured, and ending what killed runs kept."""

from collections.abc import Sequence

from cbtfs.errors import CbtfsError
from cbtfs.source.transport.base import Transport
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.relocation import relocation_is_disabled
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.store.runs import RunFacts


class NotHeld:
    """Nothing is held, and nothing needs to be."""

    trouble = None

    def end(self) -> None:
        """Nothing to end."""


def end_hold(
    transports: Sequence[Transport], session: Session, vm: ListedVm, run: RunFacts
) -> str | None:
    """End what a dead run holds of *vm*; why it cannot be ended, if so."""
    if not run.holds or not relocation_is_disabled(session, vm.object):
        return None
    access = next((each.access for each in transports if each.access is not None), None)
    why = "run once with --transport vddk, which can end that"
    if access is not None:
        try:
            access.end(vm.id, run.snapshot)
            return None
        except CbtfsError as exc:
            why = str(exc)
        if not relocation_is_disabled(session, vm.object):
            return None  # the dead run's own process ended it meanwhile
    return f"storage vMotion of the VM is disabled by a run that ended early: {why}"
