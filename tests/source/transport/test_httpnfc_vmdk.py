"""The decoder of stream-optimized VMDKs reads the files of the writer in the simulator."""

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.source.transport.httpnfc.vmdk import (
    SECTOR,
    Grain,
    StreamCorrupt,
    StreamDecoder,
    unpack,
)
from tests.source.transport.exported import exported, grains, raw
from tools.vsim.data.streamed import GRAIN, StreamFault

SIZE = 9 * GRAIN + 3 * SECTOR
CONTENT = grains(1, 4, 9)
FILE = exported(CONTENT, SIZE)
DISK = raw(CONTENT, SIZE)


def decode(data: bytes, size: int, cuts: list[int] | None = None) -> bytes:
    """Return the disk in a file that arrives in pieces."""
    decoder, disk = StreamDecoder(size), bytearray(size)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    for start, end in pairwise(places):
        for grain in decoder.feed(data[start:end]):
            content = unpack(grain, decoder.grain_bytes, size)
            disk[grain.start : grain.start + len(content)] = content
    decoder.finish()
    return bytes(disk)


@settings(max_examples=40)
@given(
    sectors=st.integers(1, 1300),
    offsets=st.lists(st.tuples(st.integers(0, 1299), st.integers(1, 200_000)), max_size=4),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_any_disk_in_any_pieces_is_decoded(
    sectors: int, offsets: list[tuple[int, int]], cuts: list[int]
) -> None:
    size = sectors * SECTOR
    content = {at % sectors * SECTOR: b"\x01data\0" * (length // 6 + 1) for at, length in offsets}

    assert decode(exported(content, size), size, cuts) == raw(content, size)


def test_a_disk_with_several_tables_is_decoded() -> None:
    content = grains(0, 511, 512, 1600)
    size = 1601 * GRAIN

    assert decode(exported(content, size), size, [100, 70_000]) == raw(content, size)


@pytest.mark.parametrize("length", range(0, len(FILE), 1000))
def test_a_file_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(StreamCorrupt):
        decode(FILE[:length], SIZE)


@settings(max_examples=150)
@given(at=st.integers(0, len(FILE) - 1), mask=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_does_not_change_the_disk(at: int, mask: int) -> None:
    damaged = FILE[:at] + bytes([FILE[at] ^ mask]) + FILE[at + 1 :]

    try:
        disk = decode(damaged, SIZE)
    except StreamCorrupt:
        return

    assert disk == DISK


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("deflate", "damaged at 65536"),
        ("bomb", "a grain has 65537 bytes"),
        ("order", "out of order"),
        ("missing-grain", "lacks grains"),
        ("missing-table", "directory in the wrong place"),
        ("directory", "names other tables"),
        ("no-footer", "without a footer"),
        ("capacity", "describes"),
        ("trailing", "behind its end"),
    ],
)
def test_a_defect_is_refused(fault: StreamFault, words: str) -> None:
    with pytest.raises(StreamCorrupt, match=words):
        decode(exported(CONTENT, SIZE, fault), SIZE)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (0, "<I", 0),  # magic
        (4, "<I", 9),  # version
        (8, "<I", 1),  # flags
        (20, "<Q", 3),  # grain size
        (20, "<Q", 1 << 40),
        (44, "<I", 1 << 31),  # entries of a table
        (56, "<Q", 22),  # directory in front
        (64, "<Q", 0),  # overhead
        (64, "<Q", 1 << 50),
        (77, "<H", 0),  # compression
    ],
)
def test_a_header_of_another_form_is_refused(offset: int, form: str, value: int) -> None:
    packed = struct.pack(form, value)
    damaged = FILE[:offset] + packed + FILE[offset + len(packed) :]

    with pytest.raises(StreamCorrupt):
        decode(damaged, SIZE)


def test_a_marker_does_not_make_the_decoder_wait_for_gigabytes() -> None:
    decoder = StreamDecoder(SIZE)
    head = FILE[: 128 * SECTOR]
    with pytest.raises(StreamCorrupt):
        decoder.feed(head + struct.pack("<QI", 0, 1 << 31).ljust(SECTOR, b"\0"))
    decoder = StreamDecoder(SIZE)
    with pytest.raises(StreamCorrupt):
        decoder.feed(head + struct.pack("<QII", 1 << 60, 0, 1).ljust(SECTOR, b"\0"))


@pytest.mark.parametrize("extra", [b"x", zlib.compress(b"more")])
def test_data_behind_a_compressed_grain_is_refused(extra: bytes) -> None:
    packed = zlib.compress(bytes(GRAIN)) + extra

    with pytest.raises(StreamCorrupt):
        unpack(Grain(0, packed), GRAIN, SIZE)
