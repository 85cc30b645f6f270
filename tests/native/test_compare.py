"""Comparisons of a file with digests by the compiled code equal those of its bytes."""

import errno
import mmap
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3 as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs import native
from cbtfs.core.ids import NULL_DIGEST
from cbtfs.native import matching_in_file
from cbtfs.store.digest import CHUNK_PREFIX

pytestmark = pytest.mark.skipif(not native.has_blake3(), reason="the processor has no AVX2")

BLOCK = 5000
SIZE = 9 * BLOCK + 777
CONTENT = b"".join(bytes([n % 3 and n]) * BLOCK for n in range(10))[:SIZE]
KEY = b"k" * 32


def digest(block: bytes, key: bytes | None) -> bytes:
    if not block.strip(b"\0"):
        return NULL_DIGEST
    padded = block.ljust(BLOCK, b"\0")
    hasher = reference(key=key) if key else reference()
    return hasher.update(CHUNK_PREFIX + padded).digest()


def pages(length: int) -> memoryview:
    return memoryview(mmap.mmap(-1, length))


class Opened:
    """A file with *content*, open through the page cache and directly."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)

    def drop_cache(self) -> None:
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.direct)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    opened = Opened(tmp_path_factory.mktemp("compare") / "file", CONTENT)
    yield opened
    opened.close()


_OFFSETS = st.integers(0, SIZE) | st.integers(0, 11).map(lambda page: page * 4096)


@settings(max_examples=100, deadline=None)
@given(
    ranges=st.lists(st.tuples(_OFFSETS, st.integers(0, 4 * BLOCK)), max_size=5),
    is_wrong=st.lists(st.booleans(), min_size=25, max_size=25),
    buffer_bytes=st.integers(BLOCK, 3 * BLOCK),
    key=st.sampled_from([None, KEY]),
    is_direct=st.booleans(),
    is_cold=st.booleans(),
)
def test_each_block_of_any_ranges_is_compared_with_its_digest(
    file: Opened,
    ranges: list[tuple[int, int]],
    is_wrong: list[bool],
    buffer_bytes: int,
    key: bytes | None,
    is_direct: bool,
    is_cold: bool,
) -> None:
    ranges = [(offset, min(length, SIZE - offset)) for offset, length in ranges]
    blocks = [
        CONTENT[at : min(at + BLOCK, offset + length)]
        for offset, length in ranges
        for at in range(offset, offset + length, BLOCK)
    ]
    wrong = is_wrong[: len(blocks)]
    digests = [
        b"x" * 32 if is_bad else digest(block, key)
        for block, is_bad in zip(blocks, wrong, strict=True)
    ]
    if is_cold:
        file.drop_cache()

    matches = matching_in_file(
        (file.fd, file.direct if is_direct else -1),
        array("Q", [number for pair in ranges for number in pair]),
        BLOCK,
        b"".join(digests),
        pages(buffer_bytes),
        key,
    )

    assert [*matches] == [not is_bad for is_bad in wrong]


def test_zeros_match_zeros_alone(file: Opened) -> None:
    areas = array("Q", [0, 2 * BLOCK])

    assert matching_in_file((file.fd, -1), areas, BLOCK, NULL_DIGEST * 2, pages(BLOCK)) == b"\1\0"


def test_a_file_that_refuses_direct_reads_is_read_through_the_page_cache(tmp_path: Path) -> None:
    """A shift of the buffer makes the kernel refuse them."""
    opened = Opened(tmp_path / "file", CONTENT)
    opened.drop_cache()
    wanted = digest(CONTENT[:BLOCK], None) + digest(CONTENT[BLOCK : 2 * BLOCK], None)
    areas = array("Q", [0, 2 * BLOCK])

    matches = matching_in_file(
        (opened.fd, opened.direct), areas, BLOCK, wanted, pages(3 * BLOCK)[1:]
    )

    assert matches == b"\1\1"
    opened.close()


def test_the_end_of_the_file_and_errors_of_reads_are_reported(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "file", CONTENT)
    areas, wanted = array("Q", [SIZE - 5, 6]), bytes(32)
    for direct in (-1, opened.direct):
        with pytest.raises(EOFError, match="ends within"):
            matching_in_file((opened.fd, direct), areas, BLOCK, wanted, pages(BLOCK))
    opened.close()
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
        matching_in_file((folder, -1), areas, BLOCK, wanted, pages(BLOCK))
    os.close(folder)


@pytest.mark.parametrize(
    ("areas", "block_size", "digests", "buffer_bytes"),
    [
        ([0], BLOCK, 0, BLOCK),
        ([0, BLOCK], BLOCK, 0, BLOCK),
        ([0, BLOCK], BLOCK, 31, BLOCK),
        ([0, BLOCK], BLOCK, 64, BLOCK),
        ([0, BLOCK], BLOCK, 32, BLOCK - 1),
        ([0, BLOCK], 0, 32, BLOCK),
        ([0, BLOCK], 1 << 30, 32, BLOCK),
        ([1 << 63, 1], BLOCK, 32, BLOCK),
        ([(1 << 63) - 1, 1], BLOCK, 32, BLOCK),
    ],
)
def test_invalid_arguments_are_refused(
    file: Opened, areas: list[int], block_size: int, digests: int, buffer_bytes: int
) -> None:
    with pytest.raises(ValueError, match="invalid"):
        matching_in_file(
            (file.fd, -1), array("Q", areas), block_size, bytes(digests), pages(buffer_bytes)
        )


def test_areas_in_unaligned_memory_are_refused(file: Opened) -> None:
    areas = memoryview(b"x" + array("Q", [0, BLOCK]).tobytes())[1:]
    with pytest.raises(ValueError, match="invalid"):
        matching_in_file((file.fd, -1), areas, BLOCK, bytes(32), pages(BLOCK))
