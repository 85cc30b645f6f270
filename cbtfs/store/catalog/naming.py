"""The names of all VMs, as one view of the catalog tells them."""

from collections.abc import Iterable

from cbtfs.core.manifest import Vm
from cbtfs.core.vmname import Bearer, Capture, VmNames, names_of
from cbtfs.store.catalog.records import PointEntry
from cbtfs.store.catalog.view import View


def vm_names(view: View) -> VmNames:
    """Return the names of all VMs; reads the entry of every point."""
    return names_of(bearer(vm, view.entries_of(vm.id)) for vm in view.vms().values())


def present_names(view: View) -> VmNames:
    """The same without former names; reads the entry of one point of each VM."""
    found = []
    for vm in view.vms().values():
        entry = view.newest_entry(vm.id)
        found.append(bearer(vm, [] if entry is None else [entry]))
    return names_of(found)


def bearer(vm: Vm, entries: Iterable[PointEntry]) -> Bearer:
    """Return a VM with the names that its points were captured under, in order of capture."""
    captures = {vm.name: Capture(False, 0, 0)}
    captures |= {entry.vm_name: _capture(entry) for entry in entries}
    return Bearer(vm, captures)


def _capture(entry: PointEntry) -> Capture:
    return Capture(entry.is_numbered, entry.order, entry.committed_us)
