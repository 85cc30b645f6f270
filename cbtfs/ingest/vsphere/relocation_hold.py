"""Disable storage vMotion of a VM while it is captured, and end the holds of interrupted runs."""

from collections.abc import Sequence

from cbtfs.errors import CbtfsError
from cbtfs.source.transport.base import Transport
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.relocation import relocation_is_disabled
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.store.runs import RunFacts


class NotHeld:
    """The hold of a transport that needs none."""

    trouble = None

    def end(self) -> None:
        """Do nothing."""


def end_hold(
    transports: Sequence[Transport], session: Session, vm: ListedVm, run: RunFacts
) -> str | None:
    """End the hold of an interrupted run on *vm*; return why that failed, None on success."""
    if not run.holds or not relocation_is_disabled(session, vm.object):
        return None
    access = next((t.access for t in transports if t.access is not None), None)
    reason = "run once with --transport vddk, which can enable it"
    if access is not None:
        try:
            access.end(vm.id, run.snapshot)
            return None
        except CbtfsError as exc:
            reason = str(exc)
        if not relocation_is_disabled(session, vm.object):
            return None  # the process of the interrupted run has ended it meanwhile
    return f"storage vMotion of the VM is disabled by an interrupted run: {reason}"
