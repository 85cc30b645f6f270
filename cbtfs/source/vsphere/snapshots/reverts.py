"""Detect reverts of a VM to a snapshot, which invalidate its change IDs."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.core.reasons import FullReason, Reason
from cbtfs.source.vsphere.connect.faults import text_of
from cbtfs.source.vsphere.connect.session import Session

_REVERTS: Final = (
    "com.vmware.vc.vm.VmStateRevertedToSnapshot",
    "com.vmware.vc.vm.VmStateFailedToRevertToSnapshot",
    "com.vmware.vc.vm.VmMemoryStateRevertedToSnapshot",
)
KEPT: Final = timedelta(days=30)
"""Default retention of events in vCenter."""


def reverted_since(session: Session, vm: Any, moment: datetime, now: datetime) -> Reason | None:
    """Return why a revert since *moment* cannot be excluded; None if there was none.

    Both times are times of the server's clock.
    """
    if now - moment > KEPT:
        return Reason(
            FullReason.REVERTS_UNKNOWN,
            f"the last point is older than {KEPT.days} days, the retention of events",
        )
    spec = vim.event.EventFilterSpec(
        entity=vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self"),
        time=vim.event.EventFilterSpec.ByTime(beginTime=moment),
        eventTypeId=list(_REVERTS),
    )
    try:
        events: Iterable[Any] = session.repeat(
            lambda: session.content.eventManager.QueryEvents(spec), "read events"
        )
    except vmodl.MethodFault as fault:
        return Reason(FullReason.REVERTS_UNKNOWN, f"cannot read the VM's events: {text_of(fault)}")
    for event in events or ():
        if event.createdTime >= moment:
            when = event.createdTime.strftime("%Y-%m-%dT%H:%M:%SZ")
            return Reason(FullReason.REVERTED, f"the VM was reverted to a snapshot at {when}")
    return None
