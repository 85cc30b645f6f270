"""The VMs of a repository by name, former name, label or pattern."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from cbtfs.core.manifest import Vm
from cbtfs.core.names import printable
from cbtfs.core.vmname import NamedVm, VmNames
from cbtfs.errors import PointNotFound
from cbtfs.store.catalog.naming import former_vms, name_vm, vm_names
from cbtfs.store.catalog.view import View

_SUGGESTIONS: Final = 3
_LIKENESS: Final = 0.6
"""Minimum similarity of a suggested name: the default of difflib."""
_WILDCARDS: Final = frozenset("*?[")


def holder_of(view: View, name: str) -> Vm | None:
    """Return the VM that *name* means now, or None if no VM has or had it.

    Reads one point of each VM with this name, and every point only if no VM has it.
    """
    candidates = []
    for vm in view.vms().values():
        entry = view.newest_entry(vm.id) if vm.name == name else None
        if entry is not None:
            candidates.append(name_vm(vm, [entry]))
    if candidates:
        return max(candidates, key=lambda named: (named.rank, named.vm.id)).vm
    former = former_vms(view).get(name)
    return None if former is None else former.vm


def is_pattern(name: str) -> bool:
    """Return whether *name* has wildcards of the shell."""
    return not _WILDCARDS.isdisjoint(name)


def find_vm(view: View, name: str) -> Vm:
    """Return the VM that *name* means; PointNotFound suggests similar names."""
    names = vm_names(view)
    named = names.find(name)
    if named is None:
        raise no_vm(names, name)
    return named.vm


def find_vms(view: View, name: str) -> list[Vm]:
    """Return the VM that *name* means or else the VMs that match it as a pattern."""
    return [named.vm for named in matching(vm_names(view), name)]


def matching(names: VmNames, name: str) -> list[NamedVm]:
    """Return the VM in *names* that *name* means or else those that match it as a pattern."""
    named = names.find(name)
    if named is not None:
        return [named]
    return names.matching(name) if is_pattern(name) else []


def no_vm(names: VmNames, name: str) -> PointNotFound:
    """Return the error for an unknown VM, which suggests similar names."""
    known = [*names.labels.values(), *names.former]
    near = alike(name, known)
    return PointNotFound(f"no VM {printable(name)!r}{suggestion(near)}", near)


def alike(wanted: str, known: Iterable[str]) -> list[str]:
    """Return the names that resemble *wanted*, the closest first."""
    by_key: dict[str, str] = {}
    for name in known:
        by_key.setdefault(name.casefold(), name)
    keys = get_close_matches(wanted.casefold(), by_key, _SUGGESTIONS, _LIKENESS)
    return [by_key[key] for key in keys]


def suggestion(names: Sequence[str]) -> str:
    """Return the end of an error message that suggests *names*, or the listing of all names."""
    if not names:
        return ": 'cbtfs list' lists all names"
    return f": did you mean {' or '.join(map(printable, names))}?"
