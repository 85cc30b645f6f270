import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.filenames import VM_JSON
from cbtfs.core.ids import NULL_DIGEST, DiskId, PointId, VmId
from cbtfs.core.manifest import MAX_DISKS, DiskRecord, Manifest, PointState, Vm
from cbtfs.errors import DataCorrupt
from cbtfs.mount.files import PointFiles, encode_vm_json, files_of
from cbtfs.mount.inodes import base_and_slot

pytestmark = pytest.mark.mounts

BASE = 12345


def _disk(number: int, label: str, **changes: Any) -> DiskRecord:
    plain = DiskRecord(
        id=DiskId(f"{number:032x}"),
        identity=label,
        label=label,
        kind="disk",
        size=1 << 20,
        block_size=1 << 16,
        root=NULL_DIGEST,
        data_blocks=3,
        ingest="full",
        reason="first",
    )
    return replace(plain, **changes)


def _manifest(*disks: DiskRecord, time: str = "2026-01-02T03:04:05.5Z") -> Manifest:
    return Manifest(
        point=PointId("a" * 32),
        vm=Vm(VmId("b" * 32), "vm", "vm"),
        order=1,
        time=time,
        name="name",
        committed=time,
        run="c" * 32,
        program="tests",
        kind="full",
        reason="first",
        disks=disks,
    )


def _files(*disks: DiskRecord) -> PointFiles:
    return files_of(_manifest(*disks), BASE)


LABELS = st.lists(st.text(max_size=250) | st.sampled_from(["vm.json", "a", "a.raw", "../x"]))


@given(LABELS, st.sampled_from(["disk", "file"]))
def test_every_disk_has_a_unique_name_and_inode_number(labels: list[str], kind: str) -> None:
    files = _files(*(_disk(number, label, kind=kind) for number, label in enumerate(labels)))

    names = [entry.name for entry, _ in files.entries(lambda: 10)]
    inodes = [entry.inode for entry, _ in files.entries(lambda: 10)]
    assert len(set(names)) == len(set(inodes)) == len(labels) + 1
    assert all(0 < len(name.encode()) <= 255 and "/" not in name for name in names)
    assert all(files.find(name) for name in names if name != VM_JSON)


@given(LABELS)
def test_an_inode_number_identifies_its_disk(labels: list[str]) -> None:
    files = _files(*(_disk(number, label) for number, label in enumerate(labels)))

    for record, entry in zip(files.manifest.disks, files.disks, strict=True):
        base, slot = base_and_slot(entry.inode)
        assert base == BASE
        assert files.at(slot) == (record, entry)


def test_a_listing_continues_at_an_offset() -> None:
    files = _files(_disk(1, "a"), _disk(2, "b"), _disk(3, "c"))
    everything = list(files.entries(lambda: 10))

    for index, (_, offset) in enumerate(everything):
        assert list(files.entries(lambda: 10, offset)) == everything[index + 1 :]


def test_a_free_slot_has_no_disk() -> None:
    files = _files(_disk(1, "a"))

    assert [files.at(slot) for slot in (0, 1, 3, 4095)] == [None] * 4


@pytest.mark.parametrize(
    ("size", "data_blocks", "allocated"),
    [(1 << 20, 3, 3 << 16), (100, 1, 4096), (0, 0, 0), (1 << 20, 99, 1 << 20)],
)
def test_the_allocated_size_is_the_size_of_the_data_blocks(
    size: int, data_blocks: int, allocated: int
) -> None:
    (entry,) = _files(_disk(1, "a", size=size, data_blocks=data_blocks)).disks

    assert (entry.size, entry.allocated_bytes) == (size, allocated)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-01-02T03:04:05.25Z", 1767323045_250_000_000),
        ("1969-12-31T23:59:59Z", -1_000_000_000),
        ("9999-12-31T23:59:59Z", 253402300799_000_000_000),
    ],
)
def test_times_are_exact_in_any_year(time: str, expected: int) -> None:
    assert files_of(_manifest(_disk(1, "a"), time=time), BASE).disks[0].time_ns == expected


def test_a_point_with_an_invalid_time_is_corrupt() -> None:
    with pytest.raises(DataCorrupt):
        files_of(_manifest(time="yesterday"), BASE)


def test_more_disks_than_slots_are_an_error() -> None:
    with pytest.raises(DataCorrupt):
        _files(*(_disk(number, "a") for number in range(4095)))


def test_vm_json_depends_on_manifest_and_state_only() -> None:
    manifest = _manifest(_disk(1, "a\u202e", suspect="a list was odd"))
    state = PointState(manifest.point, tags=("weekly",))

    content = encode_vm_json(manifest, state, is_damaged=False)

    assert content == encode_vm_json(manifest, replace(state), is_damaged=False)
    assert content.isascii()
    document = json.loads(content)
    assert document["state"]["tags"] == ["weekly"]
    assert document["state"]["suspect"] == "a list was odd"
    assert document["disks"][0]["disk"] == "a\u202e"
    assert content != encode_vm_json(manifest, state, is_damaged=True)


def test_a_point_can_have_as_many_disks_as_an_ingest_accepts() -> None:
    """A point with one more disk is refused instead of shown in part."""
    disks = [_disk(number, f"disk{number}") for number in range(MAX_DISKS)]
    shown = files_of(_manifest(*disks), BASE)
    numbers = [entry.inode for entry in shown.disks]

    assert len(set(numbers)) == MAX_DISKS
    for disk, number in zip(disks, numbers, strict=True):
        base, slot = base_and_slot(number)
        disk_at_slot = shown.at(slot)
        assert base == BASE
        assert disk_at_slot is not None
        assert disk_at_slot[0] is disk
    with pytest.raises(DataCorrupt, match="at most 4093"):
        files_of(_manifest(*disks, _disk(MAX_DISKS, "one more")), BASE)
