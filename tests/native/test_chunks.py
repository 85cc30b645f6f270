"""Chunk reads of the compiled code: every byte that it returns is verified."""

import random
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import PIECE_BYTES, Codec, Frame, Kind
from cbtfs.core.ids import Digest
from cbtfs.native import Chunks, Leaf, PackFile, Requests, crc_table, open_pack_files
from cbtfs.store.catalog.records import Location, encode_location
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import CHECK_OF_CHUNKS, chunk_digest, prefixed_digest
from cbtfs.store.identity import new_pack_id
from tests.store.folders import packs_at

BLOCK = 5 * 4096
RAW = random.Random(1).randbytes(BLOCK)
TEXT = (b"all lines are the same\n" * BLOCK)[:BLOCK]
SLOTS = {0: RAW, 1: TEXT, 5: RAW[::-1], 6: TEXT[::-1], FANOUT - 1: RAW}
IMAGE = b"".join(SLOTS.get(slot, bytes(BLOCK)) for slot in range(FANOUT))
PACK = 7


class PackedLeaf:
    """One leaf whose chunks are in one pack."""

    def __init__(self, path: Path, digest_of: Callable[[bytes], Digest] = chunk_digest) -> None:
        path.mkdir()
        self._folder = packs_at(path)
        writer = self._folder.create(new_pack_id())
        self.frames = {
            slot: writer.append(Encoder().encode(Kind.CHUNK, 0, digest_of(content), content))
            for slot, content in SLOTS.items()
        }
        writer.close()
        self.pack = self._folder.path(writer.id)
        self._id = writer.id

    def leaf(self, **changes: Any) -> Leaf:
        frames = {slot: frame._replace(**changes) for slot, frame in self.frames.items()}
        return leaf_of(frames)

    def attached(self) -> Leaf:
        leaf = self.leaf()
        leaf.attach(PACK, self.file())
        return leaf

    def file(self) -> PackFile:
        return self._folder.open(self._id).file

    def flip(self, offset: int) -> None:
        data = bytearray(self.pack.read_bytes())
        data[offset] ^= 0x10
        self.pack.write_bytes(data)


def leaf_of(frames: dict[int, Frame]) -> Leaf:
    entries = (frames.get(slot) for slot in range(FANOUT))
    return Leaf(tuple(None if e is None else encode_location(Location(PACK, e)) for e in entries))


def fill(chunks: Chunks, leaf: Leaf, offset: int, length: int) -> bytes:
    """Return the bytes that the compiled code can read from *offset*, at most *length*."""
    target = bytearray(b"?" * length)
    return bytes(target[: chunks.fill(leaf, BLOCK, offset, target)])


@pytest.fixture
def packed(tmp_path: Path) -> PackedLeaf:
    return PackedLeaf(tmp_path / "packs")


@pytest.fixture(scope="module")
def intact_leaf(tmp_path_factory: pytest.TempPathFactory) -> Leaf:
    return PackedLeaf(tmp_path_factory.mktemp("native") / "packs").attached()


Check = Callable[[memoryview], bytes] | None
CHECKS: tuple[Check, ...] = (prefixed_digest, CHECK_OF_CHUNKS)
CHUNKS = {
    (by, strict, cache_bytes): Chunks(cache_bytes, check, strict)
    for by, check in zip(("function", "default"), CHECKS, strict=True)
    for strict in (False, True)
    for cache_bytes in (0, 3 * BLOCK)
}
"""Readers by the method of their digest check; the default is compiled code on most machines."""


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.sampled_from(sorted(CHUNKS)),
    offset=st.integers(0, len(IMAGE) - 1) | st.integers(0, FANOUT * 5 - 1).map(lambda n: n * 4096),
    length=st.integers(0, 3 * BLOCK) | st.sampled_from([1, 512, 4096, BLOCK, 7 * BLOCK]),
)
def test_any_range_of_a_leaf_reads_as_it_was_stored(
    intact_leaf: Leaf, chunks: tuple[str, bool, int], offset: int, length: int
) -> None:
    length = min(length, len(IMAGE) - offset)

    assert fill(CHUNKS[chunks], intact_leaf, offset, length) == IMAGE[offset : offset + length]


def test_a_read_ends_at_the_end_of_the_leaf(intact_leaf: Leaf) -> None:
    chunks = Chunks(0, prefixed_digest, False)

    assert fill(chunks, intact_leaf, len(IMAGE) - 10, 20) == IMAGE[-10:]
    assert fill(chunks, intact_leaf, len(IMAGE), 20) == b""


def test_a_chunk_is_readable_once_its_pack_is_attached(packed: PackedLeaf) -> None:
    chunks, leaf = Chunks(0, prefixed_digest, False), packed.leaf()

    assert leaf.wanted_pack(0) == PACK
    assert leaf.wanted_pack(2) is None
    assert fill(chunks, leaf, 2 * BLOCK, 4 * BLOCK) == IMAGE[2 * BLOCK : 5 * BLOCK]
    leaf.attach(PACK, packed.file())
    assert leaf.wanted_pack(0) is None
    assert fill(chunks, leaf, 0, len(IMAGE)) == IMAGE


@pytest.mark.parametrize("strict", [False, True])
def test_a_flipped_bit_of_a_raw_chunk_fails_reads_of_its_piece_only(
    packed: PackedLeaf, strict: bool
) -> None:
    packed.flip(packed.frames[0].payload_offset + 2 * 4096 + 17)
    chunks, leaf = Chunks(0, CHECK_OF_CHUNKS, strict), packed.attached()

    assert fill(chunks, leaf, 4096, 4096) == RAW[4096:8192]
    assert fill(chunks, leaf, 2 * 4096 + 100, 1) == b""
    assert fill(chunks, leaf, 0, BLOCK) == b""
    assert fill(chunks, leaf, 3 * 4096, 2 * 4096 + BLOCK) == RAW[3 * 4096 :] + TEXT


@pytest.mark.parametrize("slot", [0, 1])
def test_a_flipped_bit_anywhere_in_a_frame_is_detected(packed: PackedLeaf, slot: int) -> None:
    frame = packed.frames[slot]
    rng = random.Random(3)
    ends = [frame.offset, frame.payload_offset - 1, frame.payload_offset, frame.end - 1]
    for at in [*ends, *(rng.randrange(frame.offset, frame.end) for _ in range(200))]:
        packed.flip(at)
        leaf = packed.attached()
        data = [fill(Chunks(1 << 20, check, False), leaf, slot * BLOCK, BLOCK) for check in CHECKS]
        packed.flip(at)

        assert data == [b"", b""]


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": 1 << 31},
        {"stored": 1},
        {"stored": 4 << 20},
        {"stored": 5 << 20},
        {"plain": 4096},
        {"plain": 5 << 20},
        {"codec": 7},
        {"level": 1},
    ],
    ids=str,
)
def test_a_location_that_contradicts_the_frame_is_not_read(
    packed: PackedLeaf, slot: int, changes: dict[str, int]
) -> None:
    leaf = packed.leaf(**changes)
    leaf.attach(PACK, packed.file())

    assert fill(Chunks(0, prefixed_digest, False), leaf, slot * BLOCK, BLOCK) == b""


def test_the_lost_part_of_a_truncated_pack_is_not_read(packed: PackedLeaf) -> None:
    with packed.pack.open("r+b") as file:
        file.truncate(packed.frames[0].payload_offset + 4096)
    chunks, leaf = Chunks(0, prefixed_digest, False), packed.attached()

    assert fill(chunks, leaf, 0, 4096) == RAW[:4096]
    assert fill(chunks, leaf, 4096, 1) == b""
    assert fill(chunks, leaf, BLOCK, 1) == b""


@pytest.mark.parametrize("check", CHECKS)
def test_content_with_another_digest_is_not_returned(tmp_path: Path, check: Check) -> None:
    leaf = PackedLeaf(tmp_path / "packs", lambda _: chunk_digest(b"other")).attached()
    chunks = Chunks(1 << 20, check, True)

    assert fill(chunks, leaf, 0, BLOCK) == b""
    assert fill(chunks, leaf, BLOCK, 1) == b""
    assert chunks.cached_bytes == 0


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_an_exception_of_the_digest_function_reaches_the_caller(
    packed: PackedLeaf, failure: type[BaseException]
) -> None:
    def digest_of(_: memoryview) -> bytes:
        raise failure

    with pytest.raises(failure):
        fill(Chunks(1 << 20, digest_of, True), packed.attached(), 0, 7 * BLOCK)


def test_the_cache_is_bounded_and_loads_a_chunk_once(packed: PackedLeaf) -> None:
    digested: list[int] = []

    def digest_of(content: memoryview) -> bytes:
        digested.append(threading.get_ident())
        return prefixed_digest(content)

    chunks, leaf = Chunks(BLOCK, digest_of, False), packed.attached()
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda start: fill(chunks, leaf, BLOCK + start, 100), range(64)))

    assert results == [TEXT[start : start + 100] for start in range(64)]
    assert len(digested) == 1
    assert fill(chunks, leaf, 6 * BLOCK, 10) == TEXT[::-1][:10]
    assert chunks.cached_bytes == BLOCK
    assert fill(chunks, leaf, BLOCK, 10) == TEXT[:10]
    assert len(digested) == 3


def test_the_last_leaf_closes_a_pack_file(packed: PackedLeaf) -> None:
    before = open_pack_files()
    leaf = packed.attached()
    packed._folder.forget_open()

    assert open_pack_files() == before + 1
    del leaf
    assert open_pack_files() == before


@given(st.binary(max_size=3 * PIECE_BYTES + 5))
def test_a_crc_table_has_the_crc_of_each_piece(payload: bytes) -> None:
    pieces = [payload[at : at + PIECE_BYTES] for at in range(0, len(payload), PIECE_BYTES)]

    assert crc_table(payload) == struct.pack(f"<{len(pieces)}I", *map(zlib.crc32, pieces))


def test_invalid_leaf_entries_and_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="64 entries"):
        Leaf((None,))
    with pytest.raises(ValueError, match="location"):
        Leaf((b"short", *[None] * 63))
    with pytest.raises(IndexError):
        Leaf((None,) * 64).wanted_pack(64)


def test_a_block_size_of_0_is_refused(intact_leaf: Leaf) -> None:
    chunks = Chunks(0, prefixed_digest, False)

    with pytest.raises(ValueError, match="block size"):
        chunks.fill(intact_leaf, 0, 0, bytearray(1))
    with pytest.raises(ValueError, match="block size"):
        Requests(-1, -1, chunks).add_disk(1, 1, 0)


def test_the_chunks_of_the_leaf_use_both_codecs() -> None:
    frames = [Encoder().encode(Kind.CHUNK, 0, chunk_digest(c), c) for c in (RAW, TEXT)]

    assert [frame.codec for frame in frames] == [Codec.STORED, Codec.ZSTD]
