"""GUID partition tables, compared with sfdisk."""

import random
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent
from cbtfs.volumes.gpt import find_gpt
from cbtfs.volumes.table import Partition, PartitionTable
from tests.volumes.images import (
    MIB,
    Memory,
    file_of,
    gpt_disk,
    gpt_header,
    loop_device,
    mbr,
    sfdisk,
    sfdisk_json,
)

SIZE = 4 * MIB
EXTENT = Extent(MIB, MIB)


def table_of(disk: bytes | bytearray) -> PartitionTable:
    table = find_gpt(Memory(disk))
    assert table is not None
    return table


@pytest.mark.parametrize("sector", [512, 4096])
def test_the_partitions_are_those_of_sfdisk(tmp_path: Path, sector: int) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    with loop_device(image, sector) as device:
        unit = MIB // sector
        script = (
            f"label: gpt\ntable-length: 9\n"
            f"1: start={unit}, size={unit}\n5: start={9 * unit}, size=1\n9: start={3 * unit}\n"
        )
        expected = [
            (int(row["node"].removeprefix(f"{device}p")), row["start"], row["size"])
            for row in sfdisk(device, script)
        ]

    table = find_gpt(file_of(image))

    assert table is not None
    assert (table.kind, table.sector_bytes, table.skipped) == ("gpt", sector, ())
    assert len(expected) == 3
    assert [
        (p.number, p.extent.start // sector, p.extent.length // sector) for p in table.partitions
    ] == expected


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("damaged", ["header", "entries", "backup header", "backup entries"])
def test_one_damaged_copy_does_no_harm(sector: int, damaged: str, tmp_path: Path) -> None:
    """sfdisk agrees; it reads files with sectors of 512 bytes only."""
    disk = gpt_disk(SIZE, sector, [(MIB // sector, 2 * MIB // sector - 1)])
    offset = {
        "header": sector + 60,
        "entries": 2 * sector + 40,
        "backup header": SIZE - sector + 60,
        "backup entries": SIZE - 2 * sector + 40,
    }[damaged]
    disk[offset] ^= 1
    (tmp_path / "disk").write_bytes(disk)

    table = table_of(disk)

    assert table.partitions == (Partition(1, EXTENT),)
    assert (table.note is None) == damaged.startswith("backup")
    if sector == 512:
        assert [(row["start"], row["size"]) for row in sfdisk_json(tmp_path / "disk")] == [
            (2048, 2048)
        ]


def test_a_table_without_an_intact_copy_has_no_partitions() -> None:
    disk = gpt_disk(SIZE, 512, [(2048, 4095)])
    disk[512 + 60] ^= 1
    disk[SIZE - 512 + 60] ^= 1

    table = table_of(disk)

    assert table.partitions == ()
    assert table.note == "both copies of the GPT are damaged"


def test_a_disk_without_a_protective_mbr_has_no_gpt() -> None:
    disk = gpt_disk(SIZE, 512, [(2048, 4095)])
    for first in (bytes(512), mbr((0x83, 2048, 2048)), mbr((0xEE, 2, 9))):
        disk[:512] = first

        assert find_gpt(Memory(disk)) is None


def test_a_partition_outside_the_disk_is_skipped_with_a_reason() -> None:
    table = table_of(gpt_disk(SIZE, 512, [(2048, 4095), (9, 8), (4096, SIZE // 512), (0, 0)]))

    assert table.partitions == (Partition(1, EXTENT), Partition(4, Extent(0, 512)))
    assert [(skipped.number, "beyond the end" in skipped.reason) for skipped in table.skipped] == [
        (2, False),
        (3, True),
    ]


@pytest.mark.parametrize("entry_bytes", [128, 256])
def test_entries_may_be_longer_than_usual(entry_bytes: int) -> None:
    disk = gpt_disk(SIZE, 512, [(2048, 4095), (4096, 4096)], entry_bytes)

    assert [partition.number for partition in table_of(disk).partitions] == [1, 2]


def test_a_header_with_an_excessive_entry_array_is_refused() -> None:
    disk = gpt_disk(SIZE, 512, [(2048, 4095)])
    header = bytearray(gpt_header(bytes(1 << 21), 512, 1, 2))
    disk[512:1024] = header
    disk[SIZE - 512 :] = bytes(512)

    assert table_of(disk).partitions == ()


def test_a_flipped_bit_never_yields_another_partition() -> None:
    """Each copy has checksums, so damage means the other copy, or no table."""
    disk = gpt_disk(SIZE, 512, [(2048, 4095)])
    source = random.Random(7)
    for _ in range(300):
        offset = source.choice([source.randrange(512, 2048), source.randrange(SIZE - 1024, SIZE)])
        damaged = bytearray(disk)
        damaged[offset] ^= 1 << source.randrange(8)

        assert table_of(damaged).partitions == (Partition(1, EXTENT),)
