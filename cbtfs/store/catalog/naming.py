"""The names of all VMs in one view of the catalog."""

from collections.abc import Iterable

from cbtfs.core import vmname
from cbtfs.core.manifest import Vm
from cbtfs.core.vmname import Capture, NamedVm, VmNames, names_of
from cbtfs.store.catalog.records import PointEntry
from cbtfs.store.catalog.view import View


def vm_names(view: View) -> VmNames:
    """Return the names of all VMs; reads the entry of every point."""
    return names_of(name_vm(vm, view.entries_of(vm.id)) for vm in view.vms().values())


def former_vms(view: View) -> dict[str, NamedVm]:
    """Return the last VM with each name that no VM has now; reads the entry of every point."""
    return vmname.former_vms(name_vm(vm, view.entries_of(vm.id)) for vm in view.vms().values())


def present_names(view: View) -> VmNames:
    """Return the current names of all VMs; reads the entry of one point of each VM."""
    named_vms = []
    for vm in view.vms().values():
        entry = view.newest_entry(vm.id)
        named_vms.append(name_vm(vm, [] if entry is None else [entry]))
    return names_of(named_vms)


def name_vm(vm: Vm, entries: Iterable[PointEntry]) -> NamedVm:
    """Return a VM with the names at its captures, in order of capture."""
    captures = {vm.name: Capture(False, 0, 0)}
    captures |= {entry.vm_name: _capture(entry) for entry in entries}
    return NamedVm(vm, captures)


def _capture(entry: PointEntry) -> Capture:
    return Capture(entry.is_numbered, entry.order, entry.committed_us)
