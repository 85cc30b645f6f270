"""Partitions of disks, from the tables of a guest."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.core.partitions import HEAD_BYTES, find_partitions, superblocks

MIB = 1 << 20
SIZE = 64 * MIB


def an_mbr(*entries: tuple[int, int, int]) -> bytes:
    """Return an MBR; entries are (type, first sector, sectors)."""
    packed = b"".join(struct.pack("<4xB3xII", *entry) for entry in entries)
    return (bytes(446) + packed).ljust(510, b"\0") + b"\x55\xaa"


def a_gpt(sector: int, *entries: tuple[int, int], count: int = 128, size: int = 128) -> bytes:
    """Return a GPT after a protective MBR; entries are (first sector, last sector)."""
    header = struct.pack("<8s64xQII", b"EFI PART", 2, count, size)
    table = b"".join(struct.pack("<16s16xQQ", b"x" * 16, *e).ljust(size, b"\0") for e in entries)
    head = an_mbr((0xEE, 1, 0xFFFFFFFF)).ljust(sector, b"\0") + header.ljust(sector, b"\0") + table
    return head.ljust(HEAD_BYTES, b"\0")


def test_partitions_of_an_mbr() -> None:
    head = an_mbr((0x83, 2048, 2048), (0, 9, 9), (7, 4096, 8192))

    assert find_partitions(head, SIZE) == [Extent(MIB, MIB), Extent(2 * MIB, 4 * MIB)]


def test_partitions_of_a_gpt_with_sectors_of_either_size() -> None:
    assert find_partitions(a_gpt(512, (2048, 4095)), SIZE) == [Extent(MIB, MIB)]
    assert find_partitions(a_gpt(4096, (256, 511)), SIZE) == [Extent(MIB, MIB)]


def test_a_partition_is_cut_at_the_end_of_the_disk() -> None:
    head = an_mbr((0x83, 2048, 0xFFFFFFFF), (0x83, 0xFFFFFFFF, 1))

    assert find_partitions(head, SIZE) == [Extent(MIB, SIZE - MIB)]


def test_a_disk_without_a_table_has_no_partitions() -> None:
    assert find_partitions(bytes(HEAD_BYTES), SIZE) == []
    assert find_partitions(b"", 0) == []


def test_a_table_that_makes_no_sense_is_passed_over() -> None:
    assert find_partitions(a_gpt(512, (9, 8)), SIZE) == []
    assert find_partitions(a_gpt(512, (1, 8), size=0), SIZE) == []
    assert len(find_partitions(a_gpt(512, (1, 8), count=1 << 31), SIZE)) == 1


def test_of_a_table_that_is_cut_the_whole_entries_count() -> None:
    for sector in (512, 4096):
        head = a_gpt(sector, (2048, 2048), (4096, 4097), (9000, 9001))
        whole = find_partitions(head, SIZE * 9)
        assert [extent.length for extent in whole] == [sector, 2 * sector, 2 * sector]
        for length in range(2 * sector + 3 * 128 + 2):
            known = max(0, (length - 2 * sector + 128 - 48) // 128) if length >= 2 * sector else 0
            assert find_partitions(head[:length], SIZE * 9)[:3] == whole[:known]


def test_superblocks_of_disk_and_partitions() -> None:
    starts = {place.start for place in superblocks(an_mbr((0x83, 2048, 2048)), SIZE)}

    assert {0, 65536, SIZE - 1, MIB, MIB + 65536, 2 * MIB - 1} <= starts


@given(st.binary(max_size=2000), st.integers(0, 1 << 40), st.sampled_from([512, 4096]))
def test_whatever_a_guest_writes_places_are_in_the_disk(
    noise: bytes, size: int, sector: int
) -> None:
    heads = [noise, a_gpt(sector)[: sector + 8] + noise, noise[:510].ljust(510) + b"\x55\xaa"]
    for head in heads:
        assert all(place.end <= size for place in superblocks(head, size))
