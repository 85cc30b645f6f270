"""Names of VMs: the VM that a name means, and a unique label for each VM.

A name means the VM that was captured most recently under it, its holder. Two VMs may have the same
name, one after the other or at the same time. A VM that is not the holder has the label `NAME~ID`,
where ID is the first 8 digits of its id, or more if others of that name start with the same digits.
"""

import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from cbtfs.core.ids import VmId, is_id
from cbtfs.core.manifest import Vm
from cbtfs.core.names import encode_name

ID_DIGITS: Final = 8
_NAME_AND_ID: Final = re.compile(r"(.+)~([0-9a-f]{4,32})\Z", re.DOTALL)


class Capture(NamedTuple):
    """Moment of a capture, comparable between the VMs of a repository.

    Points that record the source of their time have order numbers that ascend over all VMs. Older
    points have numbers of their own VM, and only the clock can order them.
    """

    is_numbered: bool
    order: int
    committed_us: int

    @property
    def rank(self) -> tuple[bool, int, int]:
        return self.is_numbered, self.order if self.is_numbered else 0, self.committed_us


@dataclass(frozen=True, slots=True)
class NamedVm:
    """One VM with the names of its captures."""

    vm: Vm
    captures: Mapping[str, Capture]
    """Last capture under each name, including the VM's current name."""

    @property
    def rank(self) -> tuple[bool, int, int]:
        return self.captures[self.vm.name].rank


@dataclass(frozen=True, slots=True)
class VmNames:
    """The names of all VMs of a repository."""

    named_vms: tuple[NamedVm, ...]
    holders: Mapping[str, NamedVm] = field(default_factory=dict)
    """Holder of each current name: the VM that was captured last under it."""
    labels: Mapping[VmId, str] = field(default_factory=dict)
    """Label of each VM in commands: NAME for a holder, NAME~ID for another VM."""
    directories: Mapping[VmId, str] = field(default_factory=dict)
    """Label of each VM as a file name of the mount."""
    former: Mapping[str, NamedVm] = field(default_factory=dict)
    """VM that was captured last under each name that no VM has any more."""

    def find(self, text: str) -> NamedVm | None:
        """Return the VM that *text* means, or None.

        The forms, in this order: the current name of a VM; a VM's label; its directory in the
        mount; NAME~ID; a name that only former captures have; the directory that the VM's first
        point recorded; the VM's id.
        """
        vm = self.holders.get(text) or self._by_label(text) or self._by_name_and_id(text)
        if vm is None:
            vm = self.former.get(text) or self._by_former_directory(text)
        return vm or (self.find_id(text) if is_id(text) else None)

    def find_id(self, vm: str) -> NamedVm | None:
        """Return the VM with this complete id, or None."""
        return next((b for b in self.named_vms if b.vm.id == vm), None)

    def matching(self, pattern: str) -> list[NamedVm]:
        """Return the VMs whose label or current name matches a pattern, sorted by label."""
        matches = [
            named
            for named in self.named_vms
            if fnmatchcase(self.labels[named.vm.id], pattern) or fnmatchcase(named.vm.name, pattern)
        ]
        return sorted(matches, key=lambda named: self.labels[named.vm.id])

    def earlier(self, name: str, but: VmId) -> list[NamedVm]:
        """Return the other VMs that were ever captured under *name*, the most recent first."""
        others = [b for b in self.named_vms if name in b.captures and b.vm.id != but]
        return sorted(others, key=lambda b: (b.captures[name].rank, b.vm.id), reverse=True)

    def _by_label(self, text: str) -> NamedVm | None:
        tables = (self.labels, self.directories)
        by_name = (b for table in tables for b in self.named_vms if table[b.vm.id] == text)
        return next(by_name, None)

    def _by_name_and_id(self, text: str) -> NamedVm | None:
        match = _NAME_AND_ID.match(text)
        if match is None:
            return None
        name, digits = match.groups()
        matches = [
            named
            for named in self.named_vms
            if named.vm.id.startswith(digits)
            and any(name in (captured, encode_name(captured)) for captured in named.captures)
        ]
        return matches[0] if len(matches) == 1 else None

    def _by_former_directory(self, text: str) -> NamedVm | None:
        by_name = (b for name, b in self.former.items() if encode_name(name) == text)
        vm = next(by_name, None)
        if vm is None:
            recorded = [b for b in self.named_vms if b.vm.directory == text]
            vm = max(recorded, key=lambda b: (b.rank, b.vm.id), default=None)
        return vm


def former_vms(named_vms: Iterable[NamedVm]) -> dict[str, NamedVm]:
    """Return the last VM with each name that no VM has now, by name."""
    known = tuple(sorted(named_vms, key=lambda named: named.vm.id))
    return _former_vms(known, _holders(known))


def _holders(known: Iterable[NamedVm]) -> dict[str, NamedVm]:
    holders: dict[str, NamedVm] = {}
    for named in known:
        name = named.vm.name
        if name not in holders or holders[name].rank <= named.rank:
            holders[name] = named
    return holders


def _former_vms(known: Iterable[NamedVm], holders: Container[str]) -> dict[str, NamedVm]:
    former: dict[str, NamedVm] = {}
    for named in known:
        for name, capture in named.captures.items():
            other = former.get(name)
            if name not in holders and (other is None or other.captures[name].rank <= capture.rank):
                former[name] = named
    return former


def names_of(named_vms: Iterable[NamedVm]) -> VmNames:
    """Return the names of all VMs of a repository."""
    known = tuple(sorted(named_vms, key=lambda named: named.vm.id))
    holders = _holders(known)
    former = _former_vms(known, holders)
    is_holder = {named.vm.id for named in holders.values()}
    labels: dict[VmId, str] = {}
    directories: dict[VmId, str] = {}
    taken_labels, taken_directories = set[str](holders), set[str]()
    bore: dict[str, list[VmId]] = {}
    for named in known:
        for name in named.captures:
            bore.setdefault(name, []).append(named.vm.id)
    for named in sorted(known, key=lambda b: (b.vm.id not in is_holder, b.vm.id)):
        vm, is_plain = named.vm, named.vm.id in is_holder
        others = [other for other in bore[vm.name] if other != vm.id]
        labels[vm.id] = vm.name if is_plain else _with_id(vm, vm.name, others, taken_labels)
        encoded = encode_name(vm.name)
        if not is_plain or encoded in taken_directories:
            encoded = _with_id(vm, encoded, others, taken_directories)
        directories[vm.id] = encoded
        taken_labels.add(labels[vm.id])
        taken_directories.add(encoded)
    return VmNames(known, holders, labels, directories, former)


def _with_id(vm: Vm, name: str, others: Sequence[VmId], taken: Collection[str]) -> str:
    """Return *name* with enough digits of the id to be unique, or the id itself.

    *others* are the VMs that have or had the same name; *taken* are the labels in use.
    """
    for digits in range(ID_DIGITS, len(vm.id) + 1, ID_DIGITS):
        label = f"{name}~{vm.id[:digits]}"
        if label not in taken and not any(other.startswith(vm.id[:digits]) for other in others):
            return label
    return vm.id
