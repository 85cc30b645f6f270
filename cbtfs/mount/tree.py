"""The directories of the mount: VMs, and the points of each, by name and by number.

A tree is immutable; grown() makes the next one from what the catalog lists now. It is made of
names alone, so that ten thousand points cost a few megabytes and no manifest is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import Vm
from cbtfs.core.names import encode_name, unique_name
from cbtfs.mount.entry import STATUS_FOLDER, Entry, Form, harmless, time_of_name
from cbtfs.mount.numbers import EXTRA, ROOT, inode_of, stem_of

LATEST: Final = "latest"
_LATEST_OFFSET: Final = 1


@dataclass(frozen=True, slots=True)
class PointNode:
    """The directory of one point."""

    point: PointId
    stem: int
    name: str

    @property
    def entry(self) -> Entry:
        inode, time = inode_of(self.stem), time_of_name(self.name)
        return Entry(self.name, inode, Form.DIRECTORY, time, is_content_lasting=True)


@dataclass(frozen=True, slots=True)
class VmNode:
    """The directory of one VM."""

    vm: VmId
    stem: int
    name: str
    points: dict[str, PointNode]
    """By name, in the order of their capture."""
    listed: Sequence[PointNode]
    """In the order of their stems, which are their offsets in a listing."""

    @property
    def latest(self) -> PointNode | None:
        """The point captured last."""
        return self.points[next(reversed(self.points))] if self.points else None

    @property
    def time_ns(self) -> int:
        latest = self.latest
        return 0 if latest is None else time_of_name(latest.name)

    @property
    def entry(self) -> Entry:
        return Entry(self.name, inode_of(self.stem), Form.DIRECTORY, self.time_ns)

    @property
    def link(self) -> Entry:
        """The entry of `latest`."""
        latest = self.latest
        size = 0 if latest is None else len(latest.name.encode("utf-8", "surrogateescape"))
        return Entry(LATEST, inode_of(self.stem, EXTRA), Form.LINK, self.time_ns, size)

    def shows(self, points: Sequence[tuple[str, PointId]]) -> bool:
        """Whether it has just these *points*, by the names that they have in the catalog."""
        if len(points) != len(self.points):
            return False
        nodes = self.points.values()
        return all(
            (node.name, node.point) == each for node, each in zip(nodes, points, strict=True)
        )

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
        for node in self.listed[bisect_right(self.listed, after, key=_stem) :]:
            yield node.entry, node.stem


_stem = attrgetter("stem")


@dataclass(frozen=True, slots=True)
class Tree:
    """All VMs and their points."""

    vms: Mapping[str, VmNode] = field(default_factory=dict)
    listed: Sequence[VmNode] = ()
    by_stem: Mapping[int, VmNode | PointNode] = field(default_factory=dict)
    stems: Mapping[str, int] = field(default_factory=dict)
    """Of each VM and point."""

    @property
    def entry(self) -> Entry:
        """The root."""
        time = max((vm.time_ns for vm in self.listed), default=0)
        return Entry("", ROOT, Form.DIRECTORY, time)

    def find(self, name: str) -> Entry | None:
        """The VM of that name."""
        vm = self.vms.get(name)
        return None if vm is None else vm.entry

    def entries(self, after: int = 0) -> Iterator[tuple[Entry, int]]:
        """VMs beyond offset *after*, each with its own offset, which it keeps for life."""
        for node in self.listed[bisect_right(self.listed, after, key=_stem) :]:
            yield node.entry, node.stem


Listed = Iterable[tuple[Vm, Sequence[tuple[str, PointId]]]]
"""VMs, each with name and id of its points in the order of their capture."""


def grown(tree: Tree, listed: Listed) -> Tree:
    """The tree of what is *listed* now; what *tree* had keeps its number."""
    found = sorted(((vm, list(points)) for vm, points in listed), key=lambda each: each[0].id)
    ids = [*(_key(vm.id) for vm, _ in found), *(point for _, ps in found for _, point in ps)]
    stems = _stems(tree.stems, ids)
    known = {vm.vm: vm for vm in tree.listed}
    vms: dict[str, VmNode] = {}
    for vm, points in found:
        shown = harmless(vm.directory)
        name = unique_name(encode_name(shown) if shown == STATUS_FOLDER else shown, vms, vm.id)
        vms[name] = _vm_node(known.get(vm.id), vm.id, name, points, stems)
    by_stem: dict[int, VmNode | PointNode] = {}
    for node in vms.values():
        by_stem[node.stem] = node
        by_stem.update((point.stem, point) for point in node.listed)
    return Tree(vms, sorted(vms.values(), key=_stem), by_stem, stems)


def _key(vm: VmId) -> str:
    """What a VM's stem is made from: not the id of a point, whatever a repository says."""
    return f"vm {vm}"


def _stems(known: Mapping[str, int], ids: Sequence[str]) -> dict[str, int]:
    stems = {each: known[each] for each in ids if each in known}
    taken = set(stems.values())
    for each in sorted(each for each in ids if each not in stems):
        stems[each] = stem_of(each, taken)
        taken.add(stems[each])
    return stems


def _vm_node(
    known: VmNode | None,
    vm: VmId,
    name: str,
    points: Sequence[tuple[str, PointId]],
    stems: Mapping[str, int],
) -> VmNode:
    if known is not None and known.name == name and known.shows(points):
        return known
    before = {} if known is None else {node.point: node for node in known.listed}
    nodes: dict[str, PointNode] = {}
    taken = {LATEST}
    for plain, point in points:
        shown = unique_name(harmless(plain), taken, point)
        taken.add(shown)
        node = before.get(point)
        if node is None or node.name != shown:
            node = PointNode(point, stems[point], shown)
        nodes[shown] = node
    points_then = [] if known is None else list(known.points.values())
    if known is not None and known.name == name and points_then == list(nodes.values()):
        return known
    return VmNode(vm, stems[_key(vm)], name, nodes, sorted(nodes.values(), key=_stem))
