"""VMs and points in one view of the catalog, as input of the directory tree."""

from collections.abc import Iterator

from cbtfs.core.dated import Dated, latest
from cbtfs.core.names import encode_name
from cbtfs.core.vmname import names_of
from cbtfs.listing import name_vm
from cbtfs.mount.tree import ListedVm
from cbtfs.store.catalog.view import View


def listed_vms(view: View) -> Iterator[ListedVm]:
    """Yield each VM with its points and its directory, which depends on its name and captures."""
    vms = view.vms()
    entries = {vm: list(view.entries_of(vm)) for vm in vms}
    names = names_of(name_vm(facts, entries[vm]) for vm, facts in vms.items())
    former: dict[str, list[str]] = {}
    for name, last in names.former.items():
        former.setdefault(last.vm.id, []).append(encode_name(name))
    for vm, points in entries.items():
        newest = latest(Dated(e.point, e.order, e.time, e.is_clocked) for e in points)
        yield ListedVm(
            vm,
            names.directories[vm],
            [(entry.name, entry.point) for entry in points],
            None if newest is None else newest.point,
            former.get(vm, ()),
        )
