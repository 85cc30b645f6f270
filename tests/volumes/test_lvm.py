"""LVM2 volumes, compared with LVM's own tools, and metadata that is damaged or unsupported."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.volumes.lvm.group import parse_group
from cbtfs.volumes.lvm.label import find_label
from cbtfs.volumes.lvm.text import TextInvalid, parse_text
from cbtfs.volumes.segment import Piece, Slice
from cbtfs.volumes.slices import NamedDisk, Omitted, Slices, find_slices
from cbtfs.volumes.source import Source
from tests.volumes.images import MIB, LvmTools, Memory, file_of, lvm_tools, physical_volume

EXTENT: Final = 4 * MIB
UUIDS: Final = ("1" * 32, "2" * 32)
GROUP: Final = "g" * 32
_UNSUPPORTED: Final = """
    snap { status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
        segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1
            stripes = [ "pv0", 1 ] } }
    snapshot0 { status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
        segment1 { start_extent = 0 extent_count = 1 type = "snapshot" chunk_size = 8
            origin = "linear" cow_store = "snap" } }
    r1 { status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
        segment1 { start_extent = 0 extent_count = 1 type = "raid1" device_count = 2
            region_size = 4096
            raids = ["r1_rmeta_0", "r1_rimage_0", "r1_rmeta_1", "r1_rimage_1"] } }
    r1_rmeta_0 { segment1 { extent_count = 1 type = "striped" stripes = [ "pv0", 2 ] } }
    r1_rimage_0 { segment1 { extent_count = 1 type = "striped" stripes = [ "pv0", 3 ] } }
    r1_rmeta_1 { segment1 { extent_count = 1 type = "striped" stripes = [ "pv1", 2 ] } }
    r1_rimage_1 { segment1 { extent_count = 1 type = "striped" stripes = [ "pv1", 3 ] } }
    pool { status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
        segment1 { start_extent = 0 extent_count = 1 type = "thin-pool" metadata = "pool_tmeta"
            pool = "pool_tdata" transaction_id = 1 chunk_size = 128 discards = "passdown"
            zero_new_blocks = 1 } }
    pool_tmeta { segment1 { extent_count = 1 type = "striped" stripes = [ "pv0", 4 ] } }
    pool_tdata { segment1 { extent_count = 1 type = "striped" stripes = [ "pv0", 5 ] } }
    lvol0_pmspare { segment1 { extent_count = 1 type = "striped" stripes = [ "pv0", 6 ] } }
    thin { status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
        segment1 { start_extent = 0 extent_count = 1 type = "thin" thin_pool = "pool"
            transaction_id = 0 device_id = 1 } }
"""
"""Volumes that no slice can show, as LVM writes them, without what is the same for all."""


def slices_of(sources: Sequence[Source]) -> Slices:
    return find_slices([NamedDisk(at, f"disk{at}", source) for at, source in enumerate(sources)])


def expected_pieces(lvm: LvmTools, name: str, extent: int = EXTENT) -> list[Piece]:
    """Return the location of each 64 KiB of a volume, computed from the report of `lvs`."""
    fields = ("lv_name", "seg_start", "seg_size", "stripes", "stripe_size", "seg_pe_ranges")
    unit, pieces = 65536, []
    devices = [str(device) for device in lvm.devices]
    for row in lvm.report(*fields):
        if row["lv_name"] != name:
            continue
        ranges = [
            (devices.index(device), int(first) * extent + MIB)
            for device, first in re.findall(r"(/dev/\w+):(\d+)-", row["seg_pe_ranges"])
        ]
        stripe = int(row["stripe_size"]) or 1 << 40
        assert len(ranges) == int(row["stripes"])
        for offset in range(0, int(row["seg_size"]), unit):
            index, rest = divmod(offset, stripe)
            disk, start = ranges[index % len(ranges)]
            pieces.append(Piece(disk, start + index // len(ranges) * stripe + rest, unit))
    return pieces


def pieces_of(slice_: Slice) -> list[Piece]:
    unit = 65536
    return [
        piece for offset in range(0, slice_.size, unit) for piece in slice_.pieces(offset, unit)
    ]


def test_the_volumes_are_those_of_lvs(tmp_path: Path) -> None:
    """Linear in two segments, striped over two and three disks, in one group and in another."""
    with lvm_tools(tmp_path, [64 * MIB] * 4) as (lvm, files):
        a, b, c, d = lvm.devices
        lvm.run("vgcreate", "vg-0", a, b, c)
        lvm.run("vgcreate", "other", d)
        lvm.create("--name=linear", "--size=12M", "vg-0", a)
        lvm.create("--name=wide", "--stripes=3", "--stripesize=128k", "--size=24M", "vg-0")
        lvm.create("--name=striped", "--stripes=2", "--stripesize=64k", "--size=16M", "vg-0")
        lvm.run("lvextend", "--size=+40M", "vg-0/linear")
        lvm.create("--name=single", "--size=4M", "other")
        names = {(row["vg_name"], row["lv_name"]) for row in lvm.report("vg_name", "lv_name")}
        expected = {name: expected_pieces(lvm, name) for _, name in names}

        slices = slices_of([file_of(file) for file in files])

        assert slices.omitted == ()
        assert len(names) == 4
        assert {slice_.path for slice_ in slices.shown} == {(vg, f"{lv}.raw") for vg, lv in names}
        assert max(len(slice_.segments) for slice_ in slices.shown) > 1
        for slice_ in slices.shown:
            assert pieces_of(slice_) == expected[slice_.path[1].removesuffix(".raw")]


def test_unsupported_volumes_of_lvs_are_omitted_with_a_reason(tmp_path: Path) -> None:
    """vgcfgrestore accepts volumes that need the device mapper to be created."""
    with lvm_tools(tmp_path, [64 * MIB] * 2) as (lvm, files):
        lvm.run("vgcreate", "vg", *lvm.devices)
        lvm.create("--name=linear", "--size=4M", "vg", lvm.devices[0])
        backup = tmp_path / "backup"
        lvm.run("vgcfgbackup", f"--file={backup}", "vg")
        text = backup.read_text()
        end = text.rindex("}", 0, text.rindex("}"))
        backup.write_text(text[:end] + complete(_UNSUPPORTED) + text[end:])
        lvm.run("vgcfgrestore", "--force", f"--file={backup}", "vg")
        names = {row["lv_name"] for row in lvm.report("lv_name")}

        slices = slices_of([file_of(file) for file in files])

        assert [slice_.path for slice_ in slices.shown] == [("vg", "linear.raw")]
        assert names == {"linear", "snap", "r1", "pool", "thin"}
        assert {omitted.name: omitted.reason for omitted in slices.omitted} == {
            "vg/pool": "a thin pool",
            "vg/r1": "a RAID volume",
            "vg/snap": "a snapshot: it needs its origin",
            "vg/thin": "a thin volume",
        }


def complete(volumes: str) -> str:
    """Add the ids and the members that are the same for all volumes."""
    lines, number = [], 0
    for line in volumes.splitlines():
        match = re.match(r"( {4}\w+ \{)(.*)", line)
        if match:
            number += 1
            line = f'{match[1]} id = "{number:06d}-gXh5-Ixgx-jr8j-MxGj-j5Rr-J9jgck" flags = []'
            line += match[2].replace(
                "segment1 { extent", "segment1 { start_extent = 0 stripe_count = 1 extent"
            )
            if "status" not in line:
                line = line.replace(
                    "segment1", 'status = ["READ", "WRITE"] segment_count = 1 segment1'
                )
        lines.append(line)
    return "\n".join(lines)


# Metadata that the tools do not write


SIZE: Final = 2 * MIB
SMALL: Final = 64 << 10
"""Size of an extent."""


def group(volumes: str, *, sequence: int = 1, count: int = 2, name: str = "vg") -> bytes:
    physical = "".join(
        f'pv{at} {{ id = "{uuid}" device = "/dev/sd{at}" pe_start = 2048 pe_count = 15 }}\n'
        for at, uuid in enumerate(UUIDS[:count])
    )
    return (
        f'# a comment\n{name} {{ id = "{GROUP}" seqno = {sequence} extent_size = 128\n'
        f"physical_volumes {{ {physical} }}\nlogical_volumes {{ {volumes} }} }}\nversion = 1\n"
    ).encode() + b"\0"


def volume(
    name: str, first: int = 0, pv: str = "pv0", changes: Mapping[str, object] = MappingProxyType({})
) -> str:
    fields: dict[str, object] = {
        "start_extent": 0,
        "extent_count": 1,
        "type": '"striped"',
        "stripe_count": 1,
        "stripes": f'[ "{pv}", {first} ]',
        **changes,
    }
    body = " ".join(f"{key} = {value}" for key, value in fields.items())
    return f'{name} {{ status = ["VISIBLE"] segment_count = 1 segment1 {{ {body} }} }}\n'


def disks(text: bytes, **options: int) -> list[Memory]:
    return [Memory(physical_volume(uuid, text, SIZE, **options)) for uuid in UUIDS]


def reason(volumes: str) -> str:
    """Return why the only volume is not shown."""
    slices = slices_of(disks(group(volumes)))
    assert slices.shown == ()
    (omitted,) = slices.omitted
    return omitted.reason


@pytest.mark.parametrize("offset", [512, 60000, (64 << 10) - 1])
def test_a_text_may_wrap_around_its_area(offset: int) -> None:
    slices = slices_of(disks(group(volume("a")), text_offset=offset))

    assert [slice_.path for slice_ in slices.shown] == [("vg", "a.raw")]


def test_the_newest_text_counts() -> None:
    old, new = group(volume("old"), sequence=9), group(volume("new"), sequence=10)
    images = [
        Memory(physical_volume(uuid, text, SIZE))
        for uuid, text in zip(UUIDS, (old, new), strict=True)
    ]

    for order in (images, images[::-1]):
        assert [slice_.path for slice_ in slices_of(order).shown] == [("vg", "new.raw")]


def test_volumes_on_a_missing_physical_volume_are_omitted_with_its_name() -> None:
    text = group(volume("here") + volume("away", pv="pv1"))

    slices = slices_of(disks(text)[:1])

    assert [slice_.path for slice_ in slices.shown] == [("vg", "here.raw")]
    (omitted,) = slices.omitted
    assert omitted.name == "vg/away"
    assert omitted.reason == (
        "physical volume 222222-2222-2222-2222-2222-2222-222222 (%2Fdev%2Fsd1 in the guest) is "
        "missing in this point"
    )


def test_a_physical_volume_that_exists_twice_is_not_guessed() -> None:
    image = disks(group(volume("a")))[0]

    slices = slices_of([image, image])

    assert slices.shown == ()
    assert "exists twice" in slices.omitted[0].reason


def test_a_cut_disk_has_no_volumes_beyond_its_end() -> None:
    first, second = disks(group(volume("a") + volume("b", first=14)))

    slices = slices_of([Memory(first.data[: SIZE * 3 // 4]), second])

    assert [slice_.path for slice_ in slices.shown] == [("vg", "a.raw")]
    assert "larger than its disk" in slices.omitted[0].reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": '"cache"'}, "a cached volume"),
        ({"type": '"raid5_ls"'}, "a RAID volume"),
        ({"type": '"new"'}, "segments of type 'new'"),
        ({"stripes": '[ "lv1", 0 ]'}, "it uses the volume 'lv1', not only physical volumes"),
        ({"extent_count": 16}, "a segment ends beyond its physical volume"),
        ({"extent_count": 0}, "0 extents in 1 of 1 stripes"),
        ({"extent_count": 1 << 60}, f"{1 << 60} is too large"),
        ({"start_extent": 1}, "no segment at extent 0"),
        ({"stripes": "[ ]"}, "1 extents in 0 of 1 stripes"),
        ({"stripes": '[ "pv0" ]'}, "a segment has no stripes"),
        ({"stripes": '[ 0, "pv0" ]'}, "a segment has an invalid stripe"),
        ({"stripe_count": 2}, "1 extents in 1 of 2 stripes"),
        (
            {"stripe_count": 2, "extent_count": 2, "stripes": '[ "pv0", 0, "pv1", 0 ]'},
            "stripes of 0 bytes",
        ),
        (
            {
                "stripe_count": 2,
                "extent_count": 2,
                "stripes": '[ "pv0", 0, "pv1", 0 ]',
                "stripe_size": 1000,
            },
            "its stripes do not fill its extents",
        ),
    ],
)
def test_other_volumes_are_omitted_with_a_reason(changes: dict[str, object], expected: str) -> None:
    assert reason(volume("a", changes=changes)) == expected


def test_a_volume_that_a_snapshot_is_merged_into_is_omitted() -> None:
    merging = volume("s", changes={"type": '"snapshot"', "origin": '"a"', "merging_store": '"b"'})
    slices = slices_of(disks(group(volume("a") + volume("b") + merging.replace("VISIBLE", ""))))

    assert slices.shown == ()
    assert Omitted("vg/a", "a snapshot is being merged into it") in slices.omitted


def test_a_name_that_lvm_refuses_is_not_used() -> None:
    assert reason(volume('"../../x"')) == "its name is invalid"
    with pytest.raises(TextInvalid):
        parse_group(group(volume("a"), name='".."').rstrip(b"\0").decode())
    with pytest.raises(TextInvalid):
        parse_group(group(volume("a")).replace(GROUP.encode(), b"../x").rstrip(b"\0").decode())


def test_two_groups_of_one_name_have_directories_of_their_own() -> None:
    other = group(volume("b")).replace(GROUP.encode(), b"h" * 32).replace(b"1" * 32, b"3" * 32)
    images = [*disks(group(volume("a"))), Memory(physical_volume("3" * 32, other, SIZE))]

    slices = slices_of(images)

    assert [slice_.path for slice_ in slices.shown] == [("vg", "a.raw"), ("vg~hhhhhhhh", "b.raw")]


def test_the_metadata_of_a_point_is_bounded() -> None:
    """Each disk has a valid text of 3 MiB; a text that all have is parsed once."""
    padding = b"#" + b" " * (3 * MIB)

    def disk(number: int, *, is_same: bool) -> Memory:
        text = group(volume("a"), sequence=1 if is_same else number + 1).rstrip(b"\0") + padding
        uuid = f"{number:032d}"
        return Memory(physical_volume(uuid, text, 8 * MIB, area_bytes=4 * MIB))

    assert slices_of([disk(number, is_same=True) for number in range(4)]).omitted == (
        Omitted(
            "vg/a",
            "physical volume 111111-1111-1111-1111-1111-1111-111111 "
            "(%2Fdev%2Fsd0 in the guest) is missing in this point",
        ),
    )
    reasons = [
        omitted.reason for omitted in slices_of([disk(n, is_same=False) for n in range(4)]).omitted
    ]
    assert reasons.count("LVM metadata: the point has too much of it") == 2


def test_damaged_metadata_is_reported() -> None:
    image = physical_volume(UUIDS[0], group(volume("a")), SIZE)
    image[4096 + 600] ^= 1

    slices = slices_of([Memory(image)])

    assert slices.shown == ()
    assert slices.omitted == (Omitted("disk0", "LVM physical volume: the metadata is damaged"),)


def test_a_damaged_label_is_no_physical_volume() -> None:
    image = physical_volume(UUIDS[0], group(volume("a")), SIZE)
    for offset in range(512, 1024, 37):
        damaged = Memory(image[:offset] + bytes([image[offset] ^ 1]) + image[offset + 1 :])

        assert find_label(damaged) is None


def test_the_text_format() -> None:
    text = r'a { b = "x\"y\\" # comment' + '\n c=[1,-2, "three"] d { } } e = word'

    assert parse_text(text) == {
        "a": {"b": 'x"y\\', "c": [1, -2, "three"], "d": {}},
        "e": "word",
    }


@pytest.mark.parametrize(
    "text",
    [
        *("{", "}", "a", "a =", "a = [", "a = [1 2]", "a = }", "a {", '"', "a = 1 a = 2", "= 1"),
        *("a = ]", "a {" * 99, "\0", "a = \x01"),
    ],
)
def test_an_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(TextInvalid):
        parse_text(text)


@given(st.text(alphabet='a1"\\{}[]=,# \n-', max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_text(text)
    except TextInvalid:
        return
