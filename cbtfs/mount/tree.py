"""The directories of the mount: VMs and their points, by name and by inode number.

A tree is immutable; updated_tree() derives the next one from the catalog. It contains names only:
ten thousand points take a few megabytes, and no manifest is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.names import unique_name
from cbtfs.mount.entry import BY_ID_DIRECTORY, Entry, EntryType, listable_name, time_of_name
from cbtfs.mount.inodes import (
    BY_ID,
    BY_ID_BASE,
    EXTRA,
    FORMER,
    POINT_LINK,
    ROOT,
    inode_base_of,
    inode_of,
)

LATEST: Final = "latest"
_LATEST_OFFSET: Final = 1


@dataclass(frozen=True, slots=True)
class PointNode:
    """The directory of one point."""

    point: PointId
    base: int
    name: str

    @property
    def entry(self) -> Entry:
        inode, time = inode_of(self.base), time_of_name(self.name)
        return Entry(self.name, inode, EntryType.DIRECTORY, time, is_content_permanent=True)

    def linked(self, name: str) -> Entry:
        """Return the entry of a link called *name* whose target is this point at present."""
        inode = inode_of(self.base, POINT_LINK)
        size = _length(self.name)
        return Entry(name, inode, EntryType.LINK, time_of_name(self.name), size, is_volatile=True)


@dataclass(frozen=True, slots=True)
class VmNode:
    """The directory of one VM."""

    vm: VmId
    base: int
    name: str
    points: dict[str, PointNode]
    """Points by name, in the order of their capture."""
    listed: Sequence[PointNode]
    """Points in the order of their bases, which are their offsets in a listing."""
    latest: PointNode | None
    """Target of the link `latest`."""

    @property
    def time_ns(self) -> int:
        latest = self.latest
        return 0 if latest is None else time_of_name(latest.name)

    @property
    def entry(self) -> Entry:
        return Entry(self.name, inode_of(self.base), EntryType.DIRECTORY, self.time_ns)

    @property
    def link(self) -> Entry:
        """The entry of the link `latest`."""
        latest = self.latest
        size = 0 if latest is None else _length(latest.name)
        return Entry(LATEST, inode_of(self.base, EXTRA), EntryType.LINK, self.time_ns, size)

    @property
    def by_id(self) -> Entry:
        """The entry of the link in `.by-id` to this directory."""
        size = _length(self.name_from_by_id)
        return Entry(self.vm, inode_of(self.base, BY_ID), EntryType.LINK, self.time_ns, size)

    @property
    def name_from_by_id(self) -> str:
        """Target of the link in `.by-id`."""
        return f"../{self.name}"

    def linked(self, name: str) -> Entry:
        """Return the entry of a link with the former name *name* of the VM."""
        size = _length(self.name)
        inode = inode_of(self.base, FORMER)
        return Entry(name, inode, EntryType.LINK, self.time_ns, size, is_volatile=True)

    def has_points(self, points: Sequence[tuple[str, PointId]]) -> bool:
        """Return True if the directory has exactly these *points* with these names."""
        if len(points) != len(self.points):
            return False
        nodes = self.points.values()
        return all(
            (node.name, node.point) == point for node, point in zip(nodes, points, strict=True)
        )

    def node_of(self, point: PointId) -> PointNode | None:
        """Return the directory of a point, or None."""
        return next((node for node in self.listed if node.point == point), None)

    def find(self, name: str) -> Entry | None:
        """Return the entry with that name, or None."""
        if name == LATEST:
            return self.link if self.points else None
        point = self.points.get(name)
        return None if point is None else point.entry

    def entries(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """Yield the entries after offset *after*, each with its permanent offset."""
        if after < _LATEST_OFFSET and self.points:
            yield self.link, _LATEST_OFFSET
        for node in self.listed[bisect_right(self.listed, after, key=_by_base) :]:
            yield node.entry, node.base


_by_base = attrgetter("base")


def _length(target: str) -> int:
    """Return the size of a symbolic link to *target*."""
    return len(target.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class DirectoryTree:
    """All VMs and their points."""

    vms: Mapping[str, VmNode] = field(default_factory=dict)
    listed: Sequence[VmNode] = ()
    by_base: Mapping[int, VmNode | PointNode] = field(default_factory=dict)
    bases: Mapping[str, int] = field(default_factory=dict)
    """Inode base of each VM and point."""
    former: Mapping[str, VmNode] = field(default_factory=dict)
    """The last VM of each former directory name that no VM has now."""

    @property
    def entry(self) -> Entry:
        """The entry of the root."""
        time = max((vm.time_ns for vm in self.listed), default=0)
        return Entry("", ROOT, EntryType.DIRECTORY, time)

    def find(self, name: str) -> Entry | None:
        """Return the VM with that name, a link to the VM with that former name, or None."""
        if name == BY_ID_DIRECTORY:
            return self.by_id
        vm = self.vms.get(name)
        if vm is not None:
            return vm.entry
        former = self.former.get(name)
        return None if former is None else former.linked(name)

    @property
    def by_id(self) -> Entry:
        """The directory of links by VM id, which no listing shows."""
        return Entry(BY_ID_DIRECTORY, inode_of(BY_ID_BASE), EntryType.DIRECTORY, self.entry.time_ns)

    def find_by_id(self, name: str) -> Entry | None:
        """Return the link to the VM with that id, or None."""
        node = self.vm(VmId(name))
        return None if node is None else node.by_id

    def vm(self, vm: VmId) -> VmNode | None:
        """Return the directory of the VM with that id, or None."""
        node = self.by_base.get(self.bases.get(_key(vm), 0))
        return node if isinstance(node, VmNode) and node.vm == vm else None

    def entries_by_id(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """Yield the links to VMs after offset *after*, each with its permanent offset."""
        for node in self.listed[bisect_right(self.listed, after, key=_by_base) :]:
            yield node.by_id, node.base

    def entries(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """Yield the VMs after offset *after*, each with its permanent offset."""
        for node in self.listed[bisect_right(self.listed, after, key=_by_base) :]:
            yield node.entry, node.base


@dataclass(frozen=True, slots=True)
class ListedVm:
    """One VM and its points in the catalog."""

    vm: VmId
    name: str
    """Name of its directory: unique, and safe to list."""
    points: Sequence[tuple[str, PointId]]
    """Names and ids of its points in the order of their capture."""
    latest: PointId | None
    former: Sequence[str] = ()
    """Former names of its directory that no other VM has or had since."""


def updated_tree(tree: DirectoryTree, listed: Iterable[ListedVm]) -> DirectoryTree:
    """Return the tree of the *listed* VMs. Entries of *tree* keep their inode numbers."""
    listed = sorted(listed, key=lambda vm: vm.vm)
    ids = [*(_key(vm.vm) for vm in listed), *(point for vm in listed for _, point in vm.points)]
    bases = _inode_bases(tree.bases, ids)
    known = {node.vm: node for node in tree.listed}
    vms = {vm.name: _vm_node(known.get(vm.vm), vm, bases) for vm in listed}
    former = {name: vms[vm.name] for vm in listed for name in vm.former if name not in vms}
    by_base: dict[int, VmNode | PointNode] = {}
    for node in vms.values():
        by_base[node.base] = node
        by_base.update((point.base, point) for point in node.listed)
    return DirectoryTree(vms, sorted(vms.values(), key=_by_base), by_base, bases, former)


def _key(vm: VmId) -> str:
    """Return the identity of a VM's base. It never equals the id of a point."""
    return f"vm {vm}"


def _inode_bases(known: Mapping[str, int], ids: Sequence[str]) -> dict[str, int]:
    bases = {identity: known[identity] for identity in ids if identity in known}
    taken = set(bases.values())
    for identity in sorted(identity for identity in ids if identity not in bases):
        bases[identity] = inode_base_of(identity, taken)
        taken.add(bases[identity])
    return bases


def _vm_node(known: VmNode | None, listed: ListedVm, bases: Mapping[str, int]) -> VmNode:
    name, points = listed.name, listed.points
    is_same_vm = known is not None and known.name == name
    if known is not None and is_same_vm and known.has_points(points):
        return known
    previous = {} if known is None else {node.point: node for node in known.listed}
    nodes: dict[str, PointNode] = {}
    latest = None
    taken = {LATEST}
    for catalog_name, point in points:
        shown = unique_name(listable_name(catalog_name), taken, point)
        taken.add(shown)
        node = previous.get(point)
        if node is None or node.name != shown:
            node = PointNode(point, bases[point], shown)
        nodes[shown] = node
        if point == listed.latest:
            latest = node
    previous_points = [] if known is None else list(known.points.values())
    if known is not None and is_same_vm and previous_points == list(nodes.values()):
        return known
    by_base = sorted(nodes.values(), key=_by_base)
    return VmNode(listed.vm, bases[_key(listed.vm)], name, nodes, by_base, latest)
