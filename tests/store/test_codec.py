"""Payloads: the choice of the codec, and their verification."""

import random
import struct
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.frame import MAX_PLAIN_BYTES, PIECE_BYTES, Codec, Frame, Kind
from cbtfs.errors import DataCorrupt
from cbtfs.store.codec import Encoded, Encoder, decode
from cbtfs.store.digest import digest_of

ENCODER = Encoder()


def encoded(content: bytes, kind: Kind = Kind.CHUNK, level: int = 0) -> Encoded:
    return ENCODER.encode(kind, level, digest_of(kind, level, content), content)


def frame_of(content: bytes, payload: bytes, codec: Codec = Codec.ZSTD) -> Frame:
    """Return a frame of *content*."""
    digest = digest_of(Kind.CHUNK, 0, content)
    return Frame(0, len(payload), len(content), Kind.CHUNK, 0, codec, digest)


def partly_random(share: float) -> bytes:
    """Return 64 KiB of which *share* cannot be compressed."""
    noise = random.Random(1).randbytes(int(65536 * share))
    return noise.ljust(65536, b"\0")


@given(st.binary(max_size=3000) | st.binary(max_size=50).map(lambda part: part * 200))
def test_encoding_round_trips(content: bytes) -> None:
    stored = encoded(content)

    frame = frame_of(content, bytes(stored.payload), stored.codec)
    assert decode(frame, bytes(stored.payload)) == content


@pytest.mark.parametrize(
    ("share", "codec"), [(0.0, Codec.ZSTD), (0.85, Codec.ZSTD), (0.92, Codec.STORED), (1.0, 0)]
)
def test_a_chunk_that_shrinks_by_less_than_a_tenth_is_stored_raw(
    share: float, codec: Codec
) -> None:
    assert encoded(partly_random(share)).codec == codec


def test_a_raw_chunk_carries_its_crcs() -> None:
    content = partly_random(1.0)
    pieces = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]

    assert encoded(content).table == struct.pack(f"<{len(pieces)}I", *map(zlib.crc32, pieces))


def test_many_chunks_are_encoded_as_each_is() -> None:
    contents = [partly_random(share) for share in (0.0, 0.85, 0.92, 1.0)]
    digests = [digest_of(Kind.CHUNK, 0, content) for content in contents]

    chunks = ENCODER.encode_chunks(digests, [memoryview(content) for content in contents])

    assert [chunk._replace(payload=bytes(chunk.payload)) for chunk in chunks] == [
        encoded(content) for content in contents
    ]


def test_a_compressed_chunk_carries_none() -> None:
    assert encoded(bytes(65536)).table == b""


def test_a_raw_node_carries_none() -> None:
    assert encoded(partly_random(1.0)[:2048], Kind.NODE, 1).table == b""


def test_a_digest_is_of_its_kind_and_level() -> None:
    kinds = [(Kind.CHUNK, 0), (Kind.NODE, 0), (Kind.NODE, 1), (Kind.NODE, 2)]

    assert len({digest_of(kind, level, b"same") for kind, level in kinds}) == len(kinds)


@pytest.mark.parametrize("codec", list(Codec))
def test_no_flipped_bit_of_a_payload_passes(codec: Codec) -> None:
    content = b"some bytes of a disk" * 8
    payload = zstandard.compress(content) if codec is Codec.ZSTD else content
    frame = frame_of(content, payload, codec)
    for bit in range(len(payload) * 8):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(frame, bytes(flipped))
        except DataCorrupt:
            continue

        assert decoded == content


def test_a_bomb_that_declares_its_size_is_refused_unopened() -> None:
    content = b"x" * 4096
    bomb = zstandard.compress(bytes(256 << 20))

    with pytest.raises(DataCorrupt, match=f"{256 << 20} declared"):
        decode(frame_of(content, bomb), bomb)


def test_a_payload_that_declares_no_size_is_refused() -> None:
    content = b"x" * 4096
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(content)

    with pytest.raises(DataCorrupt, match="declared"):
        decode(frame_of(content, silent), silent)


def declaring(payload: bytes, size: int) -> bytes:
    """Return a zstd frame of 256 to 65791 bytes that declares *size* bytes."""
    assert payload[4] >> 6 == 1, "two bytes of content size"
    at = 5 if payload[4] & 0x20 else 6
    return payload[:at] + (size - 256).to_bytes(2, "little") + payload[at + 2 :]


@pytest.mark.parametrize("content", [b"x" * 8192, b"x" * 300])
def test_a_payload_that_lies_about_its_size_is_refused(content: bytes) -> None:
    promised = b"x" * 4096
    liar = declaring(zstandard.compress(content), len(promised))

    with pytest.raises(DataCorrupt, match=r"decompress|expected"):
        decode(frame_of(promised, liar), liar)


@pytest.mark.parametrize("tail", [b"\0", b"trailing", zstandard.compress(b"second")])
def test_bytes_after_a_compressed_payload_are_refused(tail: bytes) -> None:
    content = b"x" * 4096
    payload = zstandard.compress(content) + tail

    with pytest.raises(DataCorrupt, match="decompress"):
        decode(frame_of(content, payload), payload)


@pytest.mark.parametrize("payload", [b"", b"\0" * 50, b"\x28\xb5\x2f\xfd", b"x" * 4096])
def test_a_payload_that_is_not_zstd_is_refused(payload: bytes) -> None:
    with pytest.raises(DataCorrupt, match=r"decompress|declared"):
        decode(frame_of(b"x" * 4096, payload), payload)


@pytest.mark.parametrize("payload", [b"", b"x" * 4095, b"x" * 4097])
def test_a_raw_payload_of_another_length_is_refused(payload: bytes) -> None:
    with pytest.raises(DataCorrupt, match="4096 bytes expected"):
        decode(frame_of(b"x" * 4096, payload, Codec.STORED), payload)


def test_other_content_of_the_right_length_is_refused() -> None:
    payload = zstandard.compress(b"y" * 4096)

    with pytest.raises(DataCorrupt, match="digest"):
        decode(frame_of(b"x" * 4096, payload), payload)


def test_the_largest_object_can_be_stored() -> None:
    content = bytes(MAX_PLAIN_BYTES)

    payload = bytes(encoded(content).payload)
    assert decode(frame_of(content, payload), payload) == content
