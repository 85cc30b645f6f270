"""The VMs of a repository by name, former name, label or pattern."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from cbtfs.core.manifest import Vm
from cbtfs.core.names import printable
from cbtfs.core.vmname import Bearer, VmNames
from cbtfs.errors import PointNotFound
from cbtfs.store.catalog.naming import bearer, vm_names
from cbtfs.store.catalog.view import View

_SUGGESTIONS: Final = 3
_LIKENESS: Final = 0.6
"""How alike two names must be for one to be suggested for the other: difflib's own default."""
_WILDCARDS: Final = frozenset("*?[")


def holder_of(view: View, name: str) -> Vm | None:
    """Return the VM that *name* means now, and None if no VM bears or bore it.

    Looks at one point of each VM of that name, and at every point only if there is none.
    """
    found = []
    for vm in view.vms().values():
        entry = view.newest_entry(vm.id) if vm.name == name else None
        if entry is not None:
            found.append(bearer(vm, [entry]))
    if found:
        return max(found, key=lambda each: (each.rank, each.vm.id)).vm
    former = vm_names(view).former.get(name)
    return None if former is None else former.vm


def is_pattern(name: str) -> bool:
    """Return whether *name* has wildcards, as the shell has them."""
    return not _WILDCARDS.isdisjoint(name)


def find_vm(view: View, name: str) -> Vm:
    """Return the VM that *name* means; PointNotFound, with near misses, if it means none."""
    names = vm_names(view)
    found = names.find(name)
    if found is None:
        raise no_vm(names, name)
    return found.vm


def find_vms(view: View, name: str) -> list[Vm]:
    """Return the VM that *name* means or, if it means none, those that match it as a pattern."""
    return [each.vm for each in matching(vm_names(view), name)]


def matching(names: VmNames, name: str) -> list[Bearer]:
    """The same of names that are at hand: an exact name wins over a pattern."""
    found = names.find(name)
    if found is not None:
        return [found]
    return names.matching(name) if is_pattern(name) else []


def no_vm(names: VmNames, name: str) -> PointNotFound:
    """Return the error for a name that means no VM; it suggests names that are like it."""
    known = [*names.labels.values(), *names.former]
    near = alike(name, known)
    return PointNotFound(f"no VM {printable(name)!r}{suggestion(near)}", near)


def alike(wanted: str, known: Iterable[str]) -> list[str]:
    """Return the names that resemble *wanted*, the closest first."""
    by_key: dict[str, str] = {}
    for each in known:
        by_key.setdefault(each.casefold(), each)
    found = get_close_matches(wanted.casefold(), by_key, _SUGGESTIONS, _LIKENESS)
    return [by_key[key] for key in found]


def suggestion(names: Sequence[str]) -> str:
    """Return the end of an error message that suggests *names*, or the listing of all names."""
    if not names:
        return ": 'cbtfs list' shows what there is"
    return f": did you mean {' or '.join(map(printable, names))}?"
