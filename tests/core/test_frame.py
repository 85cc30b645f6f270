"""The bytes of a pack: encoding is reversible, and every flipped bit is detected."""

import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.frame import (
    ENTRY_BYTES,
    FOOTER_BYTES,
    FRAME_HEADER_BYTES,
    MAX_PLAIN_BYTES,
    PACK_HEADER_BYTES,
    PIECE_BYTES,
    Codec,
    Frame,
    Kind,
    decode_footer,
    decode_frame_header,
    decode_pack_header,
    decode_trailer,
    encode_frame_header,
    encode_pack_header,
    encode_trailer,
)
from cbtfs.core.ids import Digest, PackId

PACK = PackId("0123456789abcdef" * 2)

DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
LENGTHS = st.integers(0, 3 * PIECE_BYTES)


def framed(kind: Kind, level: int, codec: Codec, stored: int, plain: int, digest: Digest) -> Frame:
    stored = plain if codec is Codec.STORED else stored
    return Frame(0, stored, plain, kind, level, codec, digest)


FRAMES = st.builds(
    framed,
    st.sampled_from(Kind),
    st.integers(0, 255),
    st.sampled_from(Codec),
    LENGTHS,
    LENGTHS,
    DIGESTS,
)


def table_of(frame: Frame) -> bytes:
    """Return some table of the right length."""
    return bytes(range(256))[: frame.table_bytes].ljust(frame.table_bytes, b"t")


def laid_out(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames at consecutive offsets, as in a pack."""
    at, placed = PACK_HEADER_BYTES, []
    for frame in frames:
        placed.append(frame._replace(offset=at))
        at = placed[-1].end
    return placed


def flips(data: bytes) -> list[bytes]:
    """Yield *data* with one bit flipped, for each bit."""
    variants = []
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        variants.append(bytes(flipped))
    return variants


@given(FRAMES, st.integers(0, 1 << 40))
def test_a_frame_header_round_trips(frame: Frame, offset: int) -> None:
    frame = frame._replace(offset=offset)
    table = table_of(frame)

    data = encode_frame_header(frame, table)

    assert decode_frame_header(data, offset) == (frame, table)
    assert len(data) == frame.payload_offset - frame.offset


@pytest.mark.parametrize("codec", list(Codec))
def test_every_bit_of_a_frame_header_is_vouched_for(codec: Codec) -> None:
    frame = framed(Kind.CHUNK, 0, codec, 700, 2 * PIECE_BYTES, Digest(b"d" * 32))
    for data in flips(encode_frame_header(frame, table_of(frame))):
        with pytest.raises(ValueError, match="frame"):
            decode_frame_header(data, 0)


@given(FRAMES, st.data())
def test_a_frame_header_cut_short_is_refused(frame: Frame, data: st.DataObject) -> None:
    whole = encode_frame_header(frame, table_of(frame))
    length = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(ValueError, match="frame header"):
        decode_frame_header(whole[:length], 0)


def resealed(data: bytes, at: int, value: int) -> bytes:
    """Return a frame header without table whose byte *at* is *value*, with a valid checksum."""
    head = bytearray(data[: FRAME_HEADER_BYTES - 4])
    head[at] = value
    return bytes(head) + zlib.crc32(head).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("at", "value"),
    [(8, 1), (9, 1), (10, 0), (10, 3), (12, 2), (13, 1), (4, 0), (16, 9), (23, 1), (24, 4)],
    ids=[
        "flags",
        "flags",
        "kind",
        "kind",
        "codec",
        "key-slot",
        "length",
        "stored",
        "plain",
        "table",
    ],
)
def test_a_frame_header_of_another_version_or_shape_is_refused(at: int, value: int) -> None:
    data = encode_frame_header(framed(Kind.CHUNK, 0, Codec.ZSTD, 100, 200, Digest(b"d" * 32)))

    with pytest.raises(ValueError, match=r"frame|not a valid"):
        decode_frame_header(resealed(data, at, value), 0)


def test_a_pack_header_round_trips() -> None:
    assert decode_pack_header(encode_pack_header(PACK)) == PACK


def test_another_magic_version_or_flag_is_no_pack() -> None:
    for at in range(12):
        data = bytearray(encode_pack_header(PACK))
        data[at] ^= 1

        with pytest.raises(ValueError, match="not a pack"):
            decode_pack_header(bytes(data))


def test_a_pack_header_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="truncated"):
        decode_pack_header(encode_pack_header(PACK)[:-1])


@given(st.lists(FRAMES, max_size=6).map(laid_out))
def test_a_trailer_round_trips(frames: list[Frame]) -> None:
    end = frames[-1].end if frames else PACK_HEADER_BYTES

    data = encode_trailer(frames, end, PACK)

    footer = decode_footer(data[-FOOTER_BYTES:], end + len(data))
    assert footer.pack == PACK
    assert footer.trailer_offset == end
    assert decode_trailer(data[:-FOOTER_BYTES], footer) == frames


def read_trailer(data: bytes, end: int) -> list[Frame]:
    footer = decode_footer(data[-FOOTER_BYTES:], end + len(data))
    return decode_trailer(data[:-FOOTER_BYTES], footer)


def test_every_bit_of_trailer_and_footer_is_vouched_for() -> None:
    digest = Digest(b"d" * 32)
    frames = laid_out([framed(Kind.NODE, 1, Codec.ZSTD, n, 2048, digest) for n in (9, 10)])
    for data in flips(encode_trailer(frames, frames[-1].end, PACK)):
        with pytest.raises(ValueError, match="pack"):
            read_trailer(data, frames[-1].end)


def test_a_footer_of_another_size_of_pack_is_refused() -> None:
    data = encode_trailer([], PACK_HEADER_BYTES, PACK)

    with pytest.raises(ValueError, match="does not match the size"):
        decode_footer(data, PACK_HEADER_BYTES + len(data) + 1)


def test_a_footer_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="truncated"):
        decode_footer(encode_trailer([], PACK_HEADER_BYTES, PACK)[1:], PACK_HEADER_BYTES)


@pytest.mark.parametrize("beyond", [1, ENTRY_BYTES, 1 << 40])
def test_a_trailer_that_lists_a_frame_beyond_the_frames_is_refused(beyond: int) -> None:
    frame = framed(Kind.CHUNK, 0, Codec.ZSTD, 10, 10, Digest(b"d" * 32))._replace(
        offset=PACK_HEADER_BYTES + beyond
    )
    end = frame.end - beyond

    with pytest.raises(ValueError, match="inconsistent"):
        read_trailer(encode_trailer([frame], end, PACK), end)


def test_a_trailer_that_lists_an_object_too_large_is_refused() -> None:
    frame = framed(Kind.CHUNK, 0, Codec.ZSTD, 10, MAX_PLAIN_BYTES + 1, Digest(b"d" * 32))

    with pytest.raises(ValueError, match="unknown feature"):
        read_trailer(encode_trailer([frame], frame.end, PACK), frame.end)


def test_the_limits_are_those_of_the_format() -> None:
    """docs/format.md states the limits: other readers refuse a larger object as damaged."""
    assert MAX_PLAIN_BYTES == 4 << 20
    assert (PACK_HEADER_BYTES, FRAME_HEADER_BYTES, ENTRY_BYTES, FOOTER_BYTES) == (32, 96, 56, 64)
    assert PIECE_BYTES == 4096
