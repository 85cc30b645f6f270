"""Digests of the compiled code equal those of the library blake3."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3 as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs import native
from cbtfs.core.ids import NULL_DIGEST
from cbtfs.store import digest
from cbtfs.store.digest import CHUNK_PREFIX, matching_blocks

DATA = random.Random(1).randbytes((1 << 20) + 99)
EDGES = [
    *(
        1024 * chunks - 8 + more
        for chunks in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48)
        for more in (-1, 0, 1)
    ),
    *(1024 * 64 + more for more in (-9, -8, -7, 0, 1)),
    *(1024 * 1024 + more for more in (-8, 0, 1)),
]
BLOCK = 5000

LANES = [lanes for lanes in (0, 8, 16) if native.has_blake3(lanes)]
"""Numbers of lanes that this processor has; 0 is the most."""

needs_avx2 = pytest.mark.skipif(not native.has_blake3(), reason="the processor has no AVX2")


@needs_avx2
@pytest.mark.parametrize("length", [*range(130), *EDGES])
def test_each_length_has_the_digest_of_the_library(length: int) -> None:
    content = DATA[:length]
    digest = reference(b"prefix 8" + content).digest()

    assert [native.blake3(b"prefix 8", content, lanes) for lanes in LANES] == [digest] * len(LANES)


@needs_avx2
@settings(max_examples=60, deadline=None)
@given(
    prefix=st.binary(min_size=8, max_size=8),
    start=st.integers(0, 99),
    length=st.integers(0, 200_000) | st.integers(0, 20_000),
)
def test_any_part_of_a_buffer_has_the_digest_of_the_library(
    prefix: bytes, start: int, length: int
) -> None:
    content = memoryview(DATA)[start : start + length]
    digest = reference(prefix).update(content).digest()

    assert [native.blake3(prefix, content, lanes) for lanes in LANES] == [digest] * len(LANES)


@needs_avx2
def test_threads_compute_digests_at_the_same_time() -> None:
    contents = [DATA[at : at + 70_000] for at in range(64)]
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(lambda content: native.blake3(b"8 bytes.", content), contents))

    assert digests == [reference(b"8 bytes." + content).digest() for content in contents]


@needs_avx2
def test_a_prefix_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        native.blake3(b"seven..", b"")


@pytest.mark.parametrize("lanes", [1, 4, 17])
def test_a_number_of_lanes_that_no_processor_has_is_refused(lanes: int) -> None:
    assert not native.has_blake3(lanes)
    with pytest.raises(ValueError, match="lanes"):
        native.blake3(b"prefix 8", b"", lanes)


Matching = Callable[[memoryview, int, bytes], list[int]]


def _compiled(data: memoryview, block_size: int, digests: bytes) -> list[int]:
    return list(matching_blocks(data, block_size, digests))


def _by_library(data: memoryview, block_size: int, digests: bytes) -> list[int]:
    return list(digest.UNKEYED._matching_by_library(data, block_size, digests))


@pytest.mark.parametrize("matching", [_compiled, _by_library])
@settings(max_examples=50, deadline=None)
@given(
    length=st.integers(0, 4 * BLOCK),
    zeros=st.sets(st.integers(0, 3)),
    flips=st.sets(st.integers(0, 4 * BLOCK - 1), max_size=3),
)
def test_a_block_matches_if_no_byte_differs(
    matching: Matching, length: int, zeros: set[int], flips: set[int]
) -> None:
    expected = bytearray(DATA[:length])
    for block in zeros:
        part = range(*slice(block * BLOCK, (block + 1) * BLOCK).indices(length))
        expected[part.start : part.stop] = bytes(len(part))
    blocks = [bytes(expected[at : at + BLOCK]) for at in range(0, length, BLOCK)]
    digests = b"".join(
        reference(CHUNK_PREFIX + block.ljust(BLOCK, b"\0")).digest()
        if block.strip(b"\0")
        else NULL_DIGEST
        for block in blocks
    )
    data = bytearray(expected)
    for at in flips:
        if at < length:
            data[at] ^= 0x40
    changed = {at // BLOCK for at in flips if at < length}

    flags = matching(memoryview(data), BLOCK, digests)

    assert flags == [number not in changed for number in range(len(blocks))]


@needs_avx2
def test_sizes_that_do_not_fit_are_refused() -> None:
    for block_size, digests in ((0, 1), (5 << 20, 1), (100, 1), (100, 3)):
        with pytest.raises(ValueError, match="size"):
            native.matching_blocks(bytes(200), block_size, bytes(32 * digests))
