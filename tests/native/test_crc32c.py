"""CRC-32C, compared with its definition."""

import random

from cbtfs.files.jbd2.checksum import crc32c_without
from cbtfs.native import crc32c


def by_definition(data: bytes, value: int) -> int:
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


def test_a_checksum_equals_its_definition_at_any_length_and_alignment() -> None:
    source = random.Random(1)
    data = source.randbytes(100)
    for length in range(40):
        start = source.randrange(30)
        value = source.randrange(1 << 32)

        part = memoryview(data)[start : start + length]
        assert crc32c(part, value) == by_definition(bytes(part), value)
    assert crc32c(b"123456789", 0xFFFFFFFF) ^ 0xFFFFFFFF == 0xE3069283


def test_a_part_of_the_data_can_be_left_out() -> None:
    assert crc32c_without(b"123456789", 2, 5) == crc32c(b"12\0\0\0\x00789", 5)
