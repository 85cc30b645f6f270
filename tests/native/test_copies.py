"""Copies of blocks to files by the compiled code: every byte that is written is verified."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.native import Chunks, Leaf
from tests.native.test_chunks import BLOCK, CHECKS, IMAGE, PACK, SLOTS, Check, PackedLeaf

OLD = b"\xaa"
"""Content of a target before a copy."""
READERS = [Chunks(cache_bytes, check, True) for check in CHECKS for cache_bytes in (0, 3 * BLOCK)]


class Target:
    """A file of *size* old bytes, with a descriptor for direct writes."""

    def __init__(self, path: Path, size: int) -> None:
        path.write_bytes(OLD * size)
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._size = size

    @property
    def content(self) -> bytes:
        return os.pread(self.fd, self._size, 0)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.direct)


@contextmanager
def target(path: Path, size: int = len(IMAGE)) -> Iterator[Target]:
    opened = Target(path, size)
    try:
        yield opened
    finally:
        opened.close()


def pages(length: int) -> memoryview:
    return memoryview(mmap.mmap(-1, length))


def expected(start: int, end: int) -> bytes:
    """Return a target to which the blocks from *start* to *end* of the leaf were copied."""
    content = bytearray(OLD * len(IMAGE))
    for slot in SLOTS:
        first, last = max(slot * BLOCK, start), min((slot + 1) * BLOCK, end)
        if first < last:
            content[first:last] = IMAGE[first:last]
    return bytes(content)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Leaf:
    return PackedLeaf(tmp_path_factory.mktemp("copies") / "packs").attached()


@pytest.fixture
def packed(tmp_path: Path) -> PackedLeaf:
    return PackedLeaf(tmp_path / "packs")


@settings(max_examples=60, deadline=None)
@given(
    reader=st.sampled_from(READERS),
    first=st.integers(0, FANOUT - 1),
    end=st.integers(0, len(IMAGE)),
    buffer_bytes=st.integers(BLOCK, 3 * BLOCK),
    shift=st.sampled_from([0, 0, 1]),
    is_direct=st.booleans(),
)
def test_exactly_the_data_of_the_range_is_written(
    tmp_path_factory: pytest.TempPathFactory,
    intact: Leaf,
    reader: Chunks,
    first: int,
    end: int,
    buffer_bytes: int,
    shift: int,
    is_direct: bool,
) -> None:
    """A buffer that does not begin at a page makes the kernel refuse direct writes."""
    start = min(first * BLOCK, end)
    buffer = pages(buffer_bytes + shift)[shift:]
    with target(tmp_path_factory.mktemp("target") / "disk") as file:
        files = file.fd, file.direct if is_direct else -1
        assert reader.write(intact, BLOCK, start, end, files, 0, buffer) == end

        assert file.content == expected(start, end)


def test_the_leaf_is_written_at_its_position(tmp_path: Path, intact: Leaf) -> None:
    with target(tmp_path / "disk", 4096 + len(IMAGE)) as file:
        files = file.fd, file.direct
        READERS[0].write(intact, BLOCK, 0, len(IMAGE), files, 4096, pages(BLOCK))

        assert file.content == OLD * 4096 + expected(0, len(IMAGE))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("cache_bytes", [0, 3 * BLOCK])
@pytest.mark.parametrize("slot", SLOTS)
def test_a_damaged_chunk_is_not_written_and_ends_the_copy(
    tmp_path: Path, packed: PackedLeaf, check: Check, cache_bytes: int, slot: int
) -> None:
    reader = Chunks(cache_bytes, check, True)
    frame = packed.frames[slot]
    packed.flip(frame.end - 1)
    with target(tmp_path / "disk") as file:
        files = file.fd, file.direct
        leaf = packed.attached()
        assert reader.write(leaf, BLOCK, 0, len(IMAGE), files, 0, pages(4 * BLOCK)) == slot * BLOCK

        assert file.content == expected(0, slot * BLOCK)


def test_a_copy_ends_at_a_chunk_whose_pack_is_not_attached(
    tmp_path: Path, packed: PackedLeaf
) -> None:
    leaf = packed.leaf()
    with target(tmp_path / "disk") as file:
        files = file.fd, file.direct
        assert READERS[0].write(leaf, BLOCK, 0, len(IMAGE), files, 0, pages(BLOCK)) == 0
        leaf.attach(PACK, packed.file())

        assert READERS[0].write(leaf, BLOCK, 0, len(IMAGE), files, 0, pages(BLOCK)) == len(IMAGE)


@pytest.mark.parametrize("is_direct", [False, True])
def test_a_failed_write_is_an_error_with_its_number(intact: Leaf, is_direct: bool) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    try:
        files = full, full if is_direct else -1
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            READERS[0].write(intact, BLOCK, 0, len(IMAGE), files, 0, pages(BLOCK))
    finally:
        os.close(full)


@pytest.mark.parametrize(
    ("block_size", "start", "position", "length"),
    [(0, 0, 0, BLOCK), (BLOCK, 2, 0, BLOCK), (BLOCK, 0, 1 << 63, BLOCK), (BLOCK, 0, 0, BLOCK - 1)],
)
def test_invalid_arguments_are_refused(
    intact: Leaf, block_size: int, start: int, position: int, length: int
) -> None:
    with pytest.raises(ValueError, match="invalid"):
        READERS[0].write(intact, block_size, start, 1, (1, -1), position, pages(length))
