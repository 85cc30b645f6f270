"""The directories of the mount: VMs, and the points of each, by name and by number.

A tree is immutable; updated_tree() makes the next one from the catalog. It is made of
names alone, so that ten thousand points cost a few megabytes and no manifest is read.
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
        """The entry of a link called *name* that leads here now and elsewhere later."""
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
    """By name, in the order of their capture."""
    listed: Sequence[PointNode]
    """In the order of their bases, which are their offsets in a listing."""
    latest: PointNode | None
    """The point that `latest` leads to."""

    @property
    def time_ns(self) -> int:
        latest = self.latest
        return 0 if latest is None else time_of_name(latest.name)

    @property
    def entry(self) -> Entry:
        return Entry(self.name, inode_of(self.base), EntryType.DIRECTORY, self.time_ns)

    @property
    def link(self) -> Entry:
        """The entry of `latest`."""
        latest = self.latest
        size = 0 if latest is None else _length(latest.name)
        return Entry(LATEST, inode_of(self.base, EXTRA), EntryType.LINK, self.time_ns, size)

    @property
    def by_id(self) -> Entry:
        """The entry of the link in `.by-id` that leads here."""
        size = _length(self.name_from_by_id)
        return Entry(self.vm, inode_of(self.base, BY_ID), EntryType.LINK, self.time_ns, size)

    @property
    def name_from_by_id(self) -> str:
        """Where that link leads to."""
        return f"../{self.name}"

    def linked(self, name: str) -> Entry:
        """The entry of a link called *name*, which the VM was called before."""
        size = _length(self.name)
        inode = inode_of(self.base, FORMER)
        return Entry(name, inode, EntryType.LINK, self.time_ns, size, is_volatile=True)

    def shows(self, points: Sequence[tuple[str, PointId]]) -> bool:
        """Whether it has just these *points*, by the names that they have in the catalog."""
        if len(points) != len(self.points):
            return False
        nodes = self.points.values()
        return all(
            (node.name, node.point) == each for node, each in zip(nodes, points, strict=True)
        )

    def node_of(self, point: PointId) -> PointNode | None:
        """The node of that point."""
        return next((node for node in self.listed if node.point == point), None)

    def find(self, name: str) -> Entry | None:
        """The entry of that name."""
        if name == LATEST:
            return self.link if self.points else None
        point = self.points.get(name)
        return None if point is None else point.entry

    def entries(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """Entries beyond offset *after*, each with its own offset, which it keeps for life."""
        if after < _LATEST_OFFSET and self.points:
            yield self.link, _LATEST_OFFSET
        for node in self.listed[bisect_right(self.listed, after, key=_by_base) :]:
            yield node.entry, node.base


_by_base = attrgetter("base")


def _length(target: str) -> int:
    """What lstat() says of a link to *target*."""
    return len(target.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class DirectoryTree:
    """All VMs and their points."""

    vms: Mapping[str, VmNode] = field(default_factory=dict)
    listed: Sequence[VmNode] = ()
    by_base: Mapping[int, VmNode | PointNode] = field(default_factory=dict)
    bases: Mapping[str, int] = field(default_factory=dict)
    """Of each VM and point."""
    former: Mapping[str, VmNode] = field(default_factory=dict)
    """By a directory's name that no VM has any more, the VM that had it last."""

    @property
    def entry(self) -> Entry:
        """The root."""
        time = max((vm.time_ns for vm in self.listed), default=0)
        return Entry("", ROOT, EntryType.DIRECTORY, time)

    def find(self, name: str) -> Entry | None:
        """The VM of that name; a link to it if it is one that it had before."""
        if name == BY_ID_DIRECTORY:
            return self.by_id
        vm = self.vms.get(name)
        if vm is not None:
            return vm.entry
        before = self.former.get(name)
        return None if before is None else before.linked(name)

    @property
    def by_id(self) -> Entry:
        """The folder of links by the ids of VMs, which no listing shows."""
        return Entry(BY_ID_DIRECTORY, inode_of(BY_ID_BASE), EntryType.DIRECTORY, self.entry.time_ns)

    def find_by_id(self, name: str) -> Entry | None:
        """The link to the VM with that id."""
        node = self.by_base.get(self.bases.get(_key(VmId(name)), 0))
        return node.by_id if isinstance(node, VmNode) and node.vm == name else None

    def entries_by_id(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """Links to VMs beyond offset *after*, each with its own offset, which it keeps for life."""
        for node in self.listed[bisect_right(self.listed, after, key=_by_base) :]:
            yield node.by_id, node.base

    def entries(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """VMs beyond offset *after*, each with its own offset, which it keeps for life."""
        for node in self.listed[bisect_right(self.listed, after, key=_by_base) :]:
            yield node.entry, node.base


@dataclass(frozen=True, slots=True)
class ListedVm:
    """What the catalog lists of one VM now."""

    vm: VmId
    name: str
    """Of its directory: unique, and listable_name."""
    points: Sequence[tuple[str, PointId]]
    """Names and ids in the order of their capture."""
    latest: PointId | None
    former: Sequence[str] = ()
    """Names that its directory had before, and that no other VM has or had since."""


def updated_tree(tree: DirectoryTree, listed: Iterable[ListedVm]) -> DirectoryTree:
    """The tree of what is *listed* now; what *tree* had keeps its number."""
    found = sorted(listed, key=lambda each: each.vm)
    ids = [*(_key(each.vm) for each in found), *(point for e in found for _, point in e.points)]
    bases = _inode_bases(tree.bases, ids)
    known = {vm.vm: vm for vm in tree.listed}
    vms = {each.name: _vm_node(known.get(each.vm), each, bases) for each in found}
    former = {name: vms[each.name] for each in found for name in each.former if name not in vms}
    by_base: dict[int, VmNode | PointNode] = {}
    for node in vms.values():
        by_base[node.base] = node
        by_base.update((point.base, point) for point in node.listed)
    return DirectoryTree(vms, sorted(vms.values(), key=_by_base), by_base, bases, former)


def _key(vm: VmId) -> str:
    """What a VM's base is made from: not the id of a point, whatever a repository says."""
    return f"vm {vm}"


def _inode_bases(known: Mapping[str, int], ids: Sequence[str]) -> dict[str, int]:
    bases = {each: known[each] for each in ids if each in known}
    taken = set(bases.values())
    for each in sorted(each for each in ids if each not in bases):
        bases[each] = inode_base_of(each, taken)
        taken.add(bases[each])
    return bases


def _vm_node(known: VmNode | None, listed: ListedVm, bases: Mapping[str, int]) -> VmNode:
    name, points = listed.name, listed.points
    is_same_vm = known is not None and known.name == name
    if known is not None and is_same_vm and known.shows(points):
        return known
    before = {} if known is None else {node.point: node for node in known.listed}
    nodes: dict[str, PointNode] = {}
    latest = None
    taken = {LATEST}
    for plain, point in points:
        shown = unique_name(listable_name(plain), taken, point)
        taken.add(shown)
        node = before.get(point)
        if node is None or node.name != shown:
            node = PointNode(point, bases[point], shown)
        nodes[shown] = node
        if point == listed.latest:
            latest = node
    points_then = [] if known is None else list(known.points.values())
    if known is not None and is_same_vm and points_then == list(nodes.values()):
        return known
    in_order = sorted(nodes.values(), key=_by_base)
    return VmNode(listed.vm, bases[_key(listed.vm)], name, nodes, in_order, latest)
