"""Slices with a socket instead of the device: reads and seeks match a list of pieces of disks."""

import errno
import os
import random
import struct
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Kind
from cbtfs.native import Leaf
from cbtfs.store.catalog.records import Location, encode_location
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.identity import new_pack_id
from cbtfs.store.packs import PackFolder
from tests.native.kernel import INODE, Kernel, read_request, seek_request
from tests.store.folders import packs_at

BLOCK = 4096
SIZE = FANOUT * BLOCK
DISKS = (INODE + 1, INODE + 2)
SLICE = INODE
Areas = tuple[tuple[int, int], ...]
Segments = tuple[tuple[int, int, Areas], ...]


class SliceKernel(Kernel):
    """A kernel with two disks of one leaf, whose blocks are text, noise and zeros."""

    def __init__(self, folder: PackFolder) -> None:
        super().__init__()
        rng = random.Random(7)
        self.images: dict[int, bytes] = {0: bytes(2 * SIZE)}
        for disk in DISKS:
            kinds = [bytes(BLOCK), b"text" * (BLOCK // 4), rng.randbytes(BLOCK)]
            blocks = [rng.choice(kinds) for _ in range(FANOUT)]
            self.images[disk] = b"".join(blocks)
            self.requests.add_disk(disk, SIZE, BLOCK)
            self.requests.put_leaf(disk, 0, packed(folder, blocks))
            mask = sum(any(block) << slot for slot, block in enumerate(blocks))
            self.requests.put_map(disk, 0, array("Q", [mask]), 1)

    def content(self, segments: Segments) -> bytes:
        """Return the bytes of a slice."""
        parts = []
        for length, stripe, areas in segments:
            for within in range(0, length, stripe):
                row, column = divmod(within // stripe, len(areas))
                disk, offset = areas[column]
                start, count = offset + row * stripe, min(stripe, length - within)
                parts.append(self.images[disk][start : start + count])
        return b"".join(parts)


def packed(folder: PackFolder, blocks: list[bytes]) -> Leaf:
    """Return the leaf of these blocks, with its pack attached."""
    writer = folder.create(new_pack_id())
    encoder = Encoder()
    entries: list[bytes | None] = []
    for block in blocks:
        if not any(block):
            entries.append(None)
            continue
        frame = writer.append(encoder.encode(Kind.CHUNK, 0, chunk_digest(block), block))
        entries.append(encode_location(Location(1, frame)))
    writer.close()
    leaf = Leaf(tuple(entries))
    leaf.attach(1, folder.open(writer.id).file)
    return leaf


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SliceKernel]:
    kernel = SliceKernel(packs_at(tmp_path_factory.mktemp("packs")))
    yield kernel
    kernel.close()


@st.composite
def segments(draw: st.DrawFn) -> Segments:
    """Return segments with one to three areas, at any offset, some of zeros."""
    drawn = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 3))
        stripe = draw(st.sampled_from([512, 1000, BLOCK, 3 * BLOCK]))
        length = draw(st.integers(1, 20 * BLOCK))
        rows = -(-length // (stripe * count))
        limit = SIZE - rows * stripe
        areas = tuple(
            (draw(st.sampled_from([0, *DISKS])), draw(st.integers(0, limit))) for _ in range(count)
        )
        drawn.append((length, stripe if count > 1 else length, areas))
    return tuple(drawn)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    segments=segments(),
    ranges=st.lists(st.tuples(st.floats(0, 1.1), st.integers(0, 1 << 20)), min_size=1, max_size=9),
)
def test_reads_and_seeks_match_the_pieces_of_the_disks(
    kernel: SliceKernel, segments: Segments, ranges: list[tuple[float, int]]
) -> None:
    kernel.requests.drop_file(SLICE)
    kernel.requests.add_slice(SLICE, segments)
    content = kernel.content(segments)
    assert len(content) == sum(length for length, _, _ in segments)

    for share, length in ranges:
        offset = int(len(content) * share)
        expected = content[offset : offset + length]
        assert kernel.ask(read_request(7, offset, length)) == (7, 0, expected)
    check_seeks(kernel, content)


def check_seeks(kernel: SliceKernel, content: bytes) -> None:
    """Walk over data and holes: each hole is zeros, and each seek makes progress."""
    offset, kind = 0, os.SEEK_DATA
    while True:
        _, error, body = kernel.ask(seek_request(7, offset, kind, SLICE))
        if error:
            assert (error, kind) == (errno.ENXIO, os.SEEK_DATA)
            assert not any(content[offset:])
            return
        (end,) = struct.unpack("<Q", body)
        assert offset <= end <= len(content)
        if kind == os.SEEK_DATA:
            assert not any(content[offset:end])
        else:
            assert offset < end
        offset, kind = end, os.SEEK_HOLE if kind == os.SEEK_DATA else os.SEEK_DATA


def test_a_hole_of_a_disk_is_a_hole_of_the_slice(kernel: SliceKernel) -> None:
    image = kernel.images[DISKS[0]]
    zero = next(n for n in range(1, FANOUT) if not any(image[n * BLOCK : (n + 1) * BLOCK]))
    data = next(n for n in range(1, FANOUT) if any(image[n * BLOCK : (n + 1) * BLOCK]))
    kernel.requests.drop_file(SLICE)
    kernel.requests.add_slice(
        SLICE,
        (
            (1000, 1000, ((DISKS[0], data * BLOCK + 9),)),
            (700, 700, ((DISKS[0], zero * BLOCK + 5),)),
            (300, 300, ((0, 0),)),
            (10, 10, ((DISKS[0], data * BLOCK),)),
        ),
    )

    assert kernel.ask(seek_request(7, 0, os.SEEK_HOLE, SLICE))[2] == struct.pack("<Q", 1000)
    assert kernel.ask(seek_request(7, 1000, os.SEEK_DATA, SLICE))[2] == struct.pack("<Q", 2000)
    assert kernel.ask(seek_request(7, 2000, os.SEEK_HOLE, SLICE))[2] == struct.pack("<Q", 2010)
    assert kernel.ask(seek_request(7, 2010, os.SEEK_HOLE, SLICE))[1] == errno.ENXIO


@pytest.mark.parametrize("area", [(INODE + 9, 0), (DISKS[0], SIZE - 5), (DISKS[0], 1 << 62)])
def test_a_slice_of_a_disk_that_is_not_open_or_too_short_is_left_to_python(
    kernel: SliceKernel, area: tuple[int, int]
) -> None:
    kernel.requests.drop_file(SLICE)
    kernel.requests.add_slice(SLICE, ((10, 10, (area,)),))
    kernel.result = errno.ESTALE
    kernel.prepare_seek = lambda inode, offset: -errno.ESTALE

    assert kernel.ask(read_request(7, 0, 4)) == (7, errno.ESTALE, b"")
    assert kernel.ask(seek_request(8, 0, os.SEEK_DATA, SLICE)) == (8, errno.ESTALE, b"")


@pytest.mark.parametrize(
    "segments",
    [
        ((0, 1, ((1, 0),)),),
        ((1, 0, ((1, 0),)),),
        ((1, 1, ()),),
        (((1 << 63), 1, ((1, 0),)),),
        ((1, 1, ((1, 1 << 63),)),),
        (((1 << 63) - 1, 1, ((1, 0),)), (1, 1, ((1, 0),))),
    ],
)
def test_an_invalid_segment_is_refused(kernel: SliceKernel, segments: Segments) -> None:
    with pytest.raises(ValueError, match="of a slice"):
        kernel.requests.add_slice(INODE + 5, segments)
    assert not kernel.requests.has_file(INODE + 5)


def test_an_open_slice_keeps_its_segments(kernel: SliceKernel) -> None:
    kernel.requests.drop_file(SLICE)
    kernel.requests.add_slice(SLICE, ((10, 10, ((0, 0),)),))
    kernel.requests.add_slice(SLICE, ((20, 20, ((0, 0),)),))

    assert kernel.ask(read_request(7, 0, 100)) == (7, 0, bytes(10))
