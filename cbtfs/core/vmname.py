"""Names of VMs: which VM a name means, and the name that tells each VM from all others.

A name means the VM that was captured most recently under it. Two VMs may bear one name, one after
the other or both at once, so that each but the holder is told by `NAME~ID`, where ID is the first
8 digits of its id, or as many more as tell it from others of that name.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from cbtfs.core.ids import VmId, is_id
from cbtfs.core.manifest import Vm
from cbtfs.core.names import encode_name

ID_DIGITS: Final = 8
_TOLD: Final = re.compile(r"(.+)~([0-9a-f]{4,32})\Z", re.DOTALL)


class Capture(NamedTuple):
    """When a VM was captured, comparable between the VMs of a repository.

    Order numbers ascend over all VMs in points that tell the source of their time; older points
    have numbers of their VM alone, and only the clock tells them apart.
    """

    is_numbered: bool
    order: int
    committed_us: int

    @property
    def rank(self) -> tuple[bool, int, int]:
        return self.is_numbered, self.order if self.is_numbered else 0, self.committed_us


@dataclass(frozen=True, slots=True)
class Bearer:
    """One VM with the names that it was captured under."""

    vm: Vm
    captures: Mapping[str, Capture]
    """By name, the last capture under it; the VM's present name is one of them."""

    @property
    def rank(self) -> tuple[bool, int, int]:
        return self.captures[self.vm.name].rank


@dataclass(frozen=True, slots=True)
class VmNames:
    """The names of all VMs of a repository."""

    bearers: tuple[Bearer, ...]
    holders: Mapping[str, Bearer] = field(default_factory=dict)
    """By name, the VM that bears it now and was captured last under it."""
    labels: Mapping[VmId, str] = field(default_factory=dict)
    """What commands print and take: NAME for a holder, NAME~ID for another."""
    directories: Mapping[VmId, str] = field(default_factory=dict)
    """The same as file names of the mount."""
    former: Mapping[str, Bearer] = field(default_factory=dict)
    """By a name that no VM bears any more, the VM that was captured last under it."""

    def find(self, text: str) -> Bearer | None:
        """Return the VM that *text* means, exact names first; None if it means none.

        The forms, in this order: a name that a VM bears; a VM's label; its directory in the mount;
        NAME~ID; a name that only former captures have; the directory that the VM's first point
        recorded; the VM's id.
        """
        found = self.holders.get(text) or self._by_label(text) or self._told(text)
        if found is None:
            found = self.former.get(text) or self._by_former_directory(text)
        return found or (self.find_id(text) if is_id(text) else None)

    def find_id(self, vm: str) -> Bearer | None:
        """Return the VM with that whole id; None if there is none."""
        return next((b for b in self.bearers if b.vm.id == vm), None)

    def matching(self, pattern: str) -> list[Bearer]:
        """Return the VMs whose label or present name matches a pattern, sorted by label."""
        found = [
            bearer
            for bearer in self.bearers
            if fnmatchcase(self.labels[bearer.vm.id], pattern)
            or fnmatchcase(bearer.vm.name, pattern)
        ]
        return sorted(found, key=lambda bearer: self.labels[bearer.vm.id])

    def earlier(self, name: str, but: VmId) -> list[Bearer]:
        """Return the other VMs that were ever captured under *name*, the last one first."""
        found = [b for b in self.bearers if name in b.captures and b.vm.id != but]
        return sorted(found, key=lambda b: (b.captures[name].rank, b.vm.id), reverse=True)

    def _by_label(self, text: str) -> Bearer | None:
        tables = (self.labels, self.directories)
        by_name = (b for table in tables for b in self.bearers if table[b.vm.id] == text)
        return next(by_name, None)

    def _told(self, text: str) -> Bearer | None:
        match = _TOLD.match(text)
        if match is None:
            return None
        name, digits = match.groups()
        found = [
            bearer
            for bearer in self.bearers
            if bearer.vm.id.startswith(digits)
            and any(name in (each, encode_name(each)) for each in bearer.captures)
        ]
        return found[0] if len(found) == 1 else None

    def _by_former_directory(self, text: str) -> Bearer | None:
        by_name = (b for name, b in self.former.items() if encode_name(name) == text)
        found = next(by_name, None)
        if found is None:
            recorded = [b for b in self.bearers if b.vm.directory == text]
            found = max(recorded, key=lambda b: (b.rank, b.vm.id), default=None)
        return found


def names_of(bearers: Iterable[Bearer]) -> VmNames:
    """Return the names of *bearers*, which are all VMs of a repository."""
    known = tuple(sorted(bearers, key=lambda bearer: bearer.vm.id))
    holders: dict[str, Bearer] = {}
    for bearer in known:
        name = bearer.vm.name
        if name not in holders or holders[name].rank <= bearer.rank:
            holders[name] = bearer
    former: dict[str, Bearer] = {}
    for bearer in known:
        for name, capture in bearer.captures.items():
            other = former.get(name)
            if name not in holders and (other is None or other.captures[name].rank <= capture.rank):
                former[name] = bearer
    is_holder = {bearer.vm.id for bearer in holders.values()}
    labels: dict[VmId, str] = {}
    directories: dict[VmId, str] = {}
    taken_labels, taken_directories = set[str](holders), set[str]()
    bore: dict[str, list[VmId]] = {}
    for bearer in known:
        for name in bearer.captures:
            bore.setdefault(name, []).append(bearer.vm.id)
    for bearer in sorted(known, key=lambda b: (b.vm.id not in is_holder, b.vm.id)):
        vm, is_plain = bearer.vm, bearer.vm.id in is_holder
        others = [each for each in bore[vm.name] if each != vm.id]
        labels[vm.id] = vm.name if is_plain else _told_by_id(vm, vm.name, others, taken_labels)
        encoded = encode_name(vm.name)
        if not is_plain or encoded in taken_directories:
            encoded = _told_by_id(vm, encoded, others, taken_directories)
        directories[vm.id] = encoded
        taken_labels.add(labels[vm.id])
        taken_directories.add(encoded)
    return VmNames(known, holders, labels, directories, former)


def _told_by_id(vm: Vm, name: str, others: Sequence[VmId], taken: Collection[str]) -> str:
    """Return *name* with so many digits of the id as tell it from *others*, and that is not taken.

    *others* are the VMs that bear or bore the name.
    """
    for digits in range(ID_DIGITS, len(vm.id) + 1, ID_DIGITS):
        found = f"{name}~{vm.id[:digits]}"
        if found not in taken and not any(each.startswith(vm.id[:digits]) for each in others):
            return found
    return vm.id
