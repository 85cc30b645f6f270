"""Whether storage vMotion of a VM is disabled, as backup programs do while they read its disks."""

from typing import Any, Final

from cbtfs.source.vsphere.connect.faults import speaking
from cbtfs.source.vsphere.connect.session import Session

_METHOD: Final = "RelocateVM_Task"


def relocation_is_disabled(session: Session, vm: Any) -> bool:
    """By whomever; the API does not tell by whom (ManagedEntity.disabledMethod)."""
    what = "read the VM's disabled methods"
    with speaking(what):
        found = session.repeat(lambda: vm.disabledMethod, what)
    return any(str(each) == _METHOD for each in found or ())
