"""MBR partition tables, compared with sfdisk."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cbtfs.core.extent import Extent
from cbtfs.volumes.mbr import find_mbr
from cbtfs.volumes.table import Partition, PartitionTable
from tests.volumes.images import MIB, Memory, file_of, loop_device, mbr, sfdisk

SIZE = 8 * MIB
EXTENDED = {"5", "f", "85"}


def place(disk: bytearray, sector: int, table: bytes) -> None:
    disk[sector * 512 : (sector + 1) * 512] = table


def numbered(table: PartitionTable) -> list[tuple[int, int, int]]:
    """Return number, first sector and sectors of each partition."""
    unit = table.sector_bytes
    return [(p.number, p.extent.start // unit, p.extent.length // unit) for p in table.partitions]


def rows(
    reported: list[dict[str, Any]], number_of: Callable[[str], int]
) -> list[tuple[int, int, int]]:
    return [
        (number_of(row["node"]), row["start"], row["size"])
        for row in reported
        if row["type"] not in EXTENDED
    ]


def script(source: random.Random, unit: int) -> str:
    """Return a random table: up to three primary and six logical partitions."""
    lines, at = ["label: dos", f"grain: {unit * 512 if unit < 2048 else 4096}"], unit
    for number in range(1, source.randrange(2, 5)):
        size = source.randrange(1, 4) * unit
        lines.append(f"{number}: start={at}, size={size}, type={source.choice(['83', '7', '82'])}")
        at += size + source.randrange(3) * unit
    lines.append(f"4: start={at}, type={source.choice(['5', 'f', '85'])}")
    for _ in range(source.randrange(7)):
        size = source.randrange(1, 4) * unit
        lines.append(f"start={at + unit}, size={size}, type=83")
        at += size + source.randrange(1, 3) * unit
    return "\n".join(lines) + "\n"


def test_the_partitions_are_those_of_sfdisk(tmp_path: Path) -> None:
    source, counts = random.Random(1), set()
    image = tmp_path / "disk"
    for _ in range(8):
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        reported = sfdisk(image, script(source, 2048))
        expected = rows(reported, lambda node: int(node.removeprefix(str(image))))

        table = find_mbr(file_of(image))

        assert table is not None
        assert numbered(table) == expected
        counts.add(len(expected))
    assert len(counts) > 2


def test_partitions_of_a_disk_with_sectors_of_4096_bytes(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    with loop_device(image, 4096) as device:
        reported = sfdisk(device, script(random.Random(2), 256))
        expected = rows(reported, lambda node: int(node.removeprefix(f"{device}p")))
    with image.open("r+b") as file:
        for _, first, _ in expected:
            file.seek(first * 4096)
            file.write(b"XFSB")

    table = find_mbr(file_of(image))

    assert table is not None
    assert table.sector_bytes == 4096
    assert any(number > 4 for number, *_ in expected)
    assert numbered(table) == expected


def test_sectors_have_512_bytes_unless_the_content_tells_otherwise() -> None:
    disk = bytearray(SIZE)
    place(disk, 0, mbr((0x83, 64, 64)))

    for start, sector in ((0, 512), (64 * 512, 512), (64 * 4096, 512)):
        disk[start + 1080 : start + 1082] = b"\x53\xef"
        table = find_mbr(Memory(disk))
        assert table is not None
        assert table.sector_bytes == sector
    disk[64 * 512 + 1080] = 0
    table = find_mbr(Memory(disk))
    assert table is not None
    assert table.sector_bytes == 4096


def test_a_boot_sector_of_a_file_system_is_not_a_table() -> None:
    boot = bytearray(mbr((0x83, 1, 1)))
    boot[446] = 0x33

    assert find_mbr(Memory(bytes(boot).ljust(SIZE, b"\0"))) is None
    for at, name in ((3, b"NTFS    "), (54, b"FAT16   "), (82, b"FAT32   ")):
        boot = bytearray(mbr((0x83, 1, 1)))
        assert find_mbr(Memory(bytes(boot).ljust(SIZE, b"\0"))) is not None
        boot[at : at + 8] = name
        assert find_mbr(Memory(bytes(boot).ljust(SIZE, b"\0"))) is None


def test_a_disk_without_a_table_has_no_partitions() -> None:
    for content in (b"", b"x", bytes(512), bytes(SIZE), mbr().ljust(SIZE, b"\0")):
        assert find_mbr(Memory(content)) is None


def test_a_chain_that_is_a_loop_ends() -> None:
    disk = bytearray(SIZE)
    place(disk, 0, mbr((5, 2048, 8192)))
    place(disk, 2048, mbr((0x83, 1, 8), (5, 100, 9)))
    place(disk, 2148, mbr((0x83, 1, 8), (5, 0, 9)))

    table = find_mbr(Memory(disk))

    assert table is not None
    assert numbered(table) == [(5, 2049, 8), (6, 2149, 8)]


def test_a_chain_of_thousands_is_cut() -> None:
    disk = bytearray(SIZE)
    place(disk, 0, mbr((5, 1, 16000)))
    for number in range(3000):
        place(disk, 1 + number, mbr((0x83, 1, 1), (5, number + 1, 2)))

    table = find_mbr(Memory(disk))

    assert table is not None
    assert len(table.partitions) == 100


def test_a_partition_outside_the_disk_is_skipped_with_a_reason() -> None:
    disk = bytearray(SIZE)
    place(disk, 0, mbr((0x83, 2048, 2048), (7, 4096, 0xFFFFFFFF)))

    table = find_mbr(Memory(disk))

    assert table is not None
    assert table.partitions == (Partition(1, Extent(MIB, MIB)),)
    ((number, reason),) = [(skipped.number, skipped.reason) for skipped in table.skipped]
    assert number == 2
    assert "beyond the end of the disk" in reason
