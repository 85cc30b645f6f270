"""Detect whether storage vMotion of a VM is disabled, as during the run of a backup program."""

from typing import Any, Final

from cbtfs.source.vsphere.connect.faults import translated_faults
from cbtfs.source.vsphere.connect.session import Session

_METHOD: Final = "RelocateVM_Task"


def relocation_is_disabled(session: Session, vm: Any) -> bool:
    """Return whether any program has disabled it (ManagedEntity.disabledMethod names none)."""
    what = "read the VM's disabled methods"
    with translated_faults(what):
        methods = session.repeat(lambda: vm.disabledMethod, what)
    return any(str(method) == _METHOD for method in methods or ())
