"""Frames of encrypted packs: the compiled code and the library cryptography agree."""

import os
import random
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cbtfs import native
from cbtfs.core.frame import Codec, Frame, Kind, encode_sealed_head
from cbtfs.core.ids import Digest
from cbtfs.native import Chunks, Leaf, PackFile, open_header, open_payload, seal_frame
from cbtfs.store.catalog.records import Location, encode_location
from cbtfs.store.digest import Digester

REPOSITORY, PACK, META, DATA = (bytes([n]) * 16 for n in (1, 2, 3, 4))
KEYS = REPOSITORY + PACK + META * 2 + DATA * 2
DIGEST_KEY = bytes(range(32))
OFFSET = 0x1_2345_6780
KNOWN = Path(__file__).parent / "known_frame.hex"
CASES = [
    (Kind.CHUNK, 0, Codec.STORED, 65536),
    (Kind.CHUNK, 0, Codec.STORED, 5000),
    (Kind.CHUNK, 0, Codec.ZSTD, 100),
    (Kind.CHUNK, 0, Codec.ZSTD, 30000),
    (Kind.NODE, 3, Codec.STORED, 2048),
    (Kind.NODE, 1, Codec.ZSTD, 77),
]


def framed(kind: Kind, level: int, codec: Codec, stored: int) -> Frame:
    plain = stored if codec is Codec.STORED else stored * 2
    return Frame(OFFSET, stored, plain, kind, level, codec, Digest(b"d" * 32), True)


def bound(frame: Frame | None, piece: int) -> bytes:
    kind, level, codec, plain, digest, stored = (
        (0, 0, 0, 0, bytes(32), 0)
        if frame is None
        else (frame.kind, frame.level, frame.codec, frame.plain, frame.digest, frame.stored)
    )
    place = struct.pack("<QBBBx", OFFSET, kind, level, codec)
    numbers = struct.pack("<I32sII", plain, digest, piece, stored)
    return b"cbtfs\0\1\0" + REPOSITORY + PACK + place + numbers


def sealed_by_library(frame: Frame, payload: bytes) -> bytes:
    """Return the frame as docs/format.md describes it, made by the library alone."""
    head = encode_sealed_head(frame)
    nonce = struct.pack("<QI", OFFSET, 0xFFFFFFFF)
    header = AESGCM(META * 2).encrypt(nonce, head, bound(None, 0xFFFFFFFF))
    is_raw = (frame.kind, frame.codec) == (Kind.CHUNK, Codec.STORED)
    step = 4096 if is_raw else 1 << 22
    key = AESGCM(DATA * 2 if frame.kind is Kind.CHUNK else META * 2)
    tags = body = b""
    for piece, at in enumerate(range(0, len(payload), step)):
        nonce = struct.pack("<QI", OFFSET, piece)
        sealed = key.encrypt(nonce, payload[at : at + step], bound(frame, piece))
        body, tags = body + sealed[:-16], tags + sealed[-16:]
    whole = header + tags + body
    return whole + bytes(-len(whole) % 64)


@pytest.mark.parametrize("case", CASES)
def test_compiled_code_and_the_library_make_the_same_frame(
    case: tuple[Kind, int, Codec, int],
) -> None:
    frame = framed(*case)
    payload = random.Random(1).randbytes(frame.stored)

    sealed = seal_frame(KEYS, OFFSET, encode_sealed_head(frame), payload)

    assert sealed == sealed_by_library(frame, payload)
    assert len(sealed) == frame.end - frame.offset
    head = open_header(KEYS, OFFSET, sealed)
    assert head == encode_sealed_head(frame)
    assert open_payload(KEYS, OFFSET, head, sealed[112:]) == payload


def test_a_known_frame_opens_and_is_made_again() -> None:
    """The file fixes the format: a change of it makes existing repositories unreadable."""
    frame = framed(Kind.CHUNK, 0, Codec.STORED, 5000)
    payload = bytes(n * 7 % 251 for n in range(5000))
    sealed = seal_frame(KEYS, OFFSET, encode_sealed_head(frame), payload)

    assert sealed == bytes.fromhex(KNOWN.read_text())


def test_every_changed_bit_is_refused() -> None:
    frame = framed(Kind.CHUNK, 0, Codec.STORED, 5000)
    payload = random.Random(2).randbytes(5000)
    head = encode_sealed_head(frame)
    sealed = bytearray(seal_frame(KEYS, OFFSET, head, payload))
    rng = random.Random(3)
    used = frame.payload_offset + frame.stored - frame.offset

    for bit in rng.sample(range(used * 8), 2000):
        sealed[bit // 8] ^= 1 << bit % 8
        if bit < 112 * 8:
            assert open_header(KEYS, OFFSET, sealed) is None
        else:
            assert open_payload(KEYS, OFFSET, head, sealed[112:]) is None
        sealed[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("at", range(0, 32, 5))
def test_a_frame_of_another_repository_or_pack_is_refused(at: int) -> None:
    frame = framed(Kind.NODE, 1, Codec.STORED, 2048)
    head = encode_sealed_head(frame)
    sealed = seal_frame(KEYS, OFFSET, head, bytes(2048))
    other = bytearray(KEYS)
    other[at] ^= 1

    assert open_header(bytes(other), OFFSET, sealed) is None
    assert open_payload(bytes(other), OFFSET, head, sealed[112:]) is None
    assert open_header(KEYS, OFFSET + 64, sealed) is None


def test_pieces_are_not_exchanged() -> None:
    frame = framed(Kind.CHUNK, 0, Codec.STORED, 8192)
    head = encode_sealed_head(frame)
    sealed = seal_frame(KEYS, OFFSET, head, random.Random(4).randbytes(8192))
    tags, body = sealed[112:144], sealed[144 : 144 + 8192]
    swapped = tags[16:] + tags[:16] + body[4096:] + body[:4096]

    assert open_payload(KEYS, OFFSET, head, swapped) is None


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_refused_piece_leaves_no_byte_of_it_and_spoils_no_later_read(
    tmp_path: Path, *, is_strict: bool
) -> None:
    """Compiled code decrypts to the memory of the caller, and keeps tags that have matched."""
    content = random.Random(5).randbytes(8192)
    digest = Digester(DIGEST_KEY).chunk(content)
    frame = Frame(128, 8192, 8192, Kind.CHUNK, 0, Codec.STORED, digest, True)
    sealed = seal_frame(KEYS, 128, encode_sealed_head(frame), content)
    leaf = Leaf((encode_location(Location(1, frame)), *[None] * 63))
    chunks = Chunks(0, Digester(DIGEST_KEY).prefixed, is_strict)
    path = tmp_path / "pack"
    with path.open("w+b") as file:
        pack = PackFile(os.dup(file.fileno()))
        pack.set_key(REPOSITORY + PACK + DATA * 2)
        leaf.attach(1, pack)
        tag = 128 + 112  # of the first piece

        for at in (tag, tag + 32, tag + 32 + 4095):
            changed = bytearray(bytes(128) + sealed)
            changed[at] ^= 1
            os.pwrite(file.fileno(), changed, 0)
            for length in (4096, 8192):
                target = bytearray(b"x" * length)
                assert chunks.fill(leaf, 8192, 0, target) == 0
                assert target in (bytes(length), b"x" * length)
            os.pwrite(file.fileno(), bytes(128) + sealed, 0)
            target = bytearray(8192)
            assert chunks.fill(leaf, 8192, 0, target) == 8192
            assert target == content


def test_sizes_that_do_not_fit_are_refused() -> None:
    head = encode_sealed_head(framed(Kind.NODE, 1, Codec.STORED, 2048))

    with pytest.raises(ValueError, match="length"):
        seal_frame(KEYS, OFFSET, head, bytes(2047))
    with pytest.raises(ValueError, match="length"):
        seal_frame(KEYS[1:], OFFSET, head, bytes(2048))
    assert open_payload(KEYS, OFFSET, head, bytes(100)) is None
    assert open_header(KEYS, OFFSET, bytes(111)) is None


@pytest.mark.parametrize("length", [0, 1, 56, 1016, 1017, 4096, 9000, 65536, 1 << 20])
@pytest.mark.skipif(not native.has_blake3(), reason="the processor has no AVX2")
def test_keyed_digests_are_those_of_the_library(length: int) -> None:
    content, key = random.Random(length).randbytes(length), bytes(range(32))

    for lanes in (0, 8, 16):
        if native.has_blake3(lanes):
            assert native.blake3(b"8 bytes.", content, lanes, key) == (
                blake3(b"8 bytes." + content, key=key).digest()
            )
    with pytest.raises(ValueError, match="32 bytes"):
        native.blake3(b"8 bytes.", content, 0, b"short")


def test_the_library_refuses_a_changed_frame() -> None:
    """The oracle of this module itself notices a change."""
    sealed = AESGCM(META * 2).encrypt(bytes(12), b"text", b"bound")

    with pytest.raises(InvalidTag):
        AESGCM(META * 2).decrypt(bytes(12), sealed, b"other")
