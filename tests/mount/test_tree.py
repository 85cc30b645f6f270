import random
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.manifest import Vm
from cbtfs.core.moment import parse_moment, point_name
from cbtfs.core.vmname import Capture, NamedVm, names_of
from cbtfs.mount import inodes
from cbtfs.mount.entry import Entry, EntryType, listable_name, nanoseconds, time_of_name
from cbtfs.mount.inodes import ROOT, base_and_slot, inode_of
from cbtfs.mount.tree import DirectoryTree, ListedVm, VmNode, updated_tree

pytestmark = pytest.mark.mounts

IDS = st.integers(0, (1 << 128) - 1).map(lambda number: f"{number:032x}")
NAMES = st.text(max_size=300) | st.sampled_from(["..", ".", "", "latest", "a/b", "x" * 256])
VMS = st.dictionaries(
    IDS.map(VmId), st.tuples(NAMES, st.lists(NAMES, max_size=6)), max_size=5
).flatmap(
    lambda vms: st.lists(
        IDS.map(PointId),
        unique=True,
        min_size=sum(len(names) for _, names in vms.values()),
        max_size=sum(len(names) for _, names in vms.values()),
    ).map(lambda ids: _with_ids(vms, iter(ids)))
)
Vms = dict[VmId, tuple[str, dict[PointId, str]]]


def _with_ids(vms: dict[VmId, tuple[str, list[str]]], ids: Iterator[PointId]) -> Vms:
    return {
        vm: (name, {next(ids): point for point in points}) for vm, (name, points) in vms.items()
    }


def _listed(vms: Vms) -> list[ListedVm]:
    named_vms = [
        NamedVm(Vm(vm, name, name), {name: Capture(True, order, 0)})
        for order, (vm, (name, _)) in enumerate(vms.items())
    ]
    directories = names_of(named_vms).directories
    return [
        ListedVm(
            vm,
            directories[vm],
            [(name, point) for point, name in points.items()],
            next(iter(points), None),
        )
        for vm, (_, points) in vms.items()
    ]


def _one_vm(points: list[PointId]) -> list[ListedVm]:
    listed = [(point[:8], point) for point in points]
    return [ListedVm(VmId("0" * 32), "vm", listed, points[-1], ("before", "vm"))]


def _pages(node: VmNode, after: int, size: int) -> list[tuple[Entry, int]]:
    entries = node.entries(after)
    return [entry for entry, _ in zip(entries, range(size), strict=False)]


@given(VMS)
def test_every_name_in_a_listing_is_valid_and_unique(vms: Vms) -> None:
    tree = updated_tree(DirectoryTree(), _listed(vms))

    listings = [list(tree.entries()), *(list(vm.entries()) for vm in tree.listed)]
    assert len(tree.listed) == len(vms)
    for listing in listings:
        names = [entry.name for entry, _ in listing]
        assert len(set(names)) == len(names)
        for name in names:
            assert 0 < len(name.encode()) <= 255
            assert "/" not in name
            assert name not in (".", "..")
            assert all(unicodedata.category(character)[0] != "C" for character in name)


@given(VMS)
def test_every_listed_entry_is_found_by_its_name(vms: Vms) -> None:
    tree = updated_tree(DirectoryTree(), _listed(vms))

    assert all(tree.find(entry.name) == entry for entry, _ in tree.entries())
    for vm in tree.listed:
        assert all(vm.find(entry.name) == entry for entry, _ in vm.entries())


@given(VMS, VMS)
def test_inode_numbers_do_not_depend_on_the_previous_tree(first: Vms, second: Vms) -> None:
    alone = updated_tree(DirectoryTree(), _listed(second))
    after = updated_tree(updated_tree(DirectoryTree(), _listed(first)), _listed(second))

    assert after == alone


@given(VMS)
def test_inode_numbers_are_unique_and_differ_from_the_root(vms: Vms) -> None:
    tree = updated_tree(DirectoryTree(), _listed(vms))

    entries = [entry for entry, _ in tree.entries()]
    entries += [entry for vm in tree.listed for entry, _ in vm.entries()]
    inodes = [entry.inode for entry in entries]
    assert len(set(inodes)) == len(inodes)
    assert all(ROOT < inode < 1 << 63 for inode in inodes)


def test_ids_with_equal_hashes_get_different_inode_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inodes, "_hash", lambda identity, attempt: 100 + attempt)
    points = [PointId(f"{number:032x}") for number in range(5)]

    few = updated_tree(DirectoryTree(), _one_vm(points[2:]))
    more = updated_tree(few, _one_vm(points))

    assert len(set(more.bases.values())) == 6
    assert few.bases.items() <= more.bases.items()


@given(st.integers(1, 1 << 51), st.integers(0, inodes.MAX_SLOT))
def test_an_inode_number_contains_its_base_and_slot(base: int, slot: int) -> None:
    assert base_and_slot(inode_of(base, slot)) == (base, slot)


def test_a_listing_contains_each_lasting_point_once_while_others_come_and_go() -> None:
    choose = random.Random(7)
    points = [PointId(f"{choose.getrandbits(128):032x}") for _ in range(10_000)]
    staying, leaving = points[:5_000], points[5_000:]
    tree = updated_tree(DirectoryTree(), _one_vm(points))
    names, after = [], 0
    while page := _pages(tree.listed[0], after, 300):
        names += [entry.name for entry, _ in page]
        after = page[-1][1]
        leaving = leaving[100:]
        coming = [PointId(f"{choose.getrandbits(128):032x}") for _ in range(50)]
        tree = updated_tree(tree, _one_vm(staying + leaving + coming))

    assert len(names) == len(set(names))
    assert {point[:8] for point in staying} <= set(names)


def test_latest_is_the_latest_point_of_the_catalog() -> None:
    points = [PointId(f"{number:032x}") for number in (3, 1, 2)]

    for latest in points:
        (listed,) = _one_vm(points)
        vm = updated_tree(DirectoryTree(), [replace(listed, latest=latest)]).listed[0]

        assert vm.latest is not None
        assert vm.latest.point == latest
        assert vm.link.size == len(vm.latest.name)
        assert next(entry.name for entry, _ in vm.entries()) == "latest"


def test_a_former_name_is_found_and_not_listed() -> None:
    tree = updated_tree(DirectoryTree(), _one_vm([PointId("1" * 32)]))
    link = tree.find("before")

    assert [entry.name for entry, _ in tree.entries()] == ["vm"]
    assert link is not None
    assert (link.type, link.name, link.is_volatile) == (EntryType.LINK, "before", True)
    assert tree.find("vm") == tree.listed[0].entry
    assert tree.find("after") is None


@given(VMS)
def test_the_directory_of_ids_contains_each_vm_once(vms: Vms) -> None:
    tree = updated_tree(DirectoryTree(), _listed(vms))
    entries = [entry for entry, _ in tree.entries_by_id()]

    assert {entry.name for entry in entries} == vms.keys()
    assert all(tree.find_by_id(entry.name) == entry for entry in entries)
    assert tree.find_by_id("0" * 31) is None
    for _, points in vms.values():
        assert all(
            tree.find_by_id(point) is None for point in points if str(point) not in {*map(str, vms)}
        )


def test_inode_numbers_and_nodes_survive_when_another_vm_takes_the_name() -> None:
    points = [PointId(f"{number:032x}") for number in range(4)]
    a, b = VmId("a" * 32), VmId("b" * 32)
    first = ListedVm(a, "web1", [("p0", points[0])], points[0])
    tree = updated_tree(DirectoryTree(), [first])
    then = updated_tree(
        tree,
        [replace(first, name="web1~aaaaaaaa"), ListedVm(b, "web1", [("p1", points[1])], points[1])],
    )

    assert then.vms["web1~aaaaaaaa"].entry.inode == tree.vms["web1"].entry.inode
    assert then.vms["web1"].entry.inode != tree.vms["web1"].entry.inode
    assert then.vms["web1~aaaaaaaa"].points["p0"] is tree.vms["web1"].points["p0"]
    assert then.find_by_id(a) == replace(then.vms["web1~aaaaaaaa"].by_id)
    assert then.vms["web1~aaaaaaaa"].name_from_by_id == "../web1~aaaaaaaa"


def test_unchanged_nodes_are_shared() -> None:
    points = [PointId(f"{number:032x}") for number in range(3)]
    tree = updated_tree(DirectoryTree(), _one_vm(points))

    assert updated_tree(tree, _one_vm(points)).listed[0] is tree.listed[0]
    more = updated_tree(tree, _one_vm([*points, PointId("f" * 32)]))
    assert more.listed[0].points[points[0][:8]] is tree.listed[0].points[points[0][:8]]


@given(st.datetimes(timezones=st.none()))
def test_the_name_of_a_point_contains_its_time(moment: object) -> None:
    text = f"{moment:%Y}".zfill(4) + f"-{moment:%m-%dT%H:%M:%S}Z"
    exact = parse_moment(text)

    assert time_of_name(point_name(exact, ())) == nanoseconds(exact)
    assert time_of_name(point_name(exact, {point_name(exact, ())})) == nanoseconds(exact)


@pytest.mark.parametrize("name", ["nothing", "2026-99-99T00-00-00Z", ""])
def test_a_name_without_a_time_has_time_0(name: str) -> None:
    assert time_of_name(name) == 0


@given(NAMES)
def test_a_listable_name_is_unchanged(name: str) -> None:
    assert listable_name(listable_name(name)) == listable_name(name)


def test_a_new_point_rebuilds_only_its_own_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker updates the tree after each commit, and most of its points are unchanged."""
    vms = [VmId(f"{number:032x}") for number in range(20)]
    points = {
        vm: [(f"point {n}", PointId(f"{m:016x}{n:016x}")) for n in range(10)]
        for m, vm in enumerate(vms)
    }
    before = updated_tree(DirectoryTree(), [ListedVm(vm, vm, points[vm], None) for vm in vms])
    checked = list[str]()

    def counting(name: str) -> str:
        checked.append(name)
        return listable_name(name)

    monkeypatch.setattr("cbtfs.mount.tree.listable_name", counting)
    points[vms[7]].append(("new", PointId("f" * 32)))
    after = updated_tree(before, [ListedVm(vm, vm, points[vm], None) for vm in vms])

    assert len(checked) == len(points[vms[7]])
    assert [a is b for a, b in zip(after.vms.values(), before.vms.values(), strict=True)] == [
        vm != vms[7] for vm in vms
    ]
    assert list(after.vms[vms[7]].points) == [name for name, _ in points[vms[7]]]


@given(st.text(st.characters(max_codepoint=0x7F)))
def test_ascii_names_follow_the_same_rules(name: str) -> None:
    is_harmful = name in ("", ".", "..") or any(
        c == "/" or unicodedata.category(c)[0] == "C" for c in name
    )

    assert (listable_name(name) == name) == (not is_harmful and len(name) <= 255)
