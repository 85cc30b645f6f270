"""SEEK_DATA and SEEK_HOLE with a socket instead of the device, against a list of blocks."""

from __future__ import annotations

import errno
import os
import random
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from tests.native.kernel import INODE, Kernel, seek_request

BLOCK = 4096
LEAF = FANOUT * BLOCK
GROUP = FANOUT * LEAF
BOUND = 2
"""Parts of a map that one seek loads at most."""
SEEKS = (os.SEEK_DATA, os.SEEK_HOLE)

Answer = tuple[int, int | None]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


def seek(kernel: Kernel, offset: int, kind: int, inode: int = INODE) -> Answer:
    """Return the errno and the offset; an error reply has no body."""
    unique, error, body = kernel.ask(seek_request(7, offset, kind, inode))
    assert unique == 7
    assert len(body) == (0 if error else 8)
    return error, struct.unpack("<Q", body)[0] if body else None


@dataclass
class Model:
    """A disk as a list of blocks, which provides its map like FileSystem.prepare_seek."""

    size: int
    data: Sequence[bool]
    parts: int = 0

    def provide_to(self, kernel: Kernel) -> None:
        def prepare_seek(inode: int, offset: int) -> None:
            self.parts += 1
            kernel.requests.add_disk(inode, self.size, BLOCK)
            if offset < self.size:
                kernel.requests.put_map(inode, *self.part(offset // LEAF))

        kernel.prepare_seek = prepare_seek

    def part(self, first: int) -> tuple[int, array[int], int]:
        leaves = -(-len(self.data) // FANOUT)
        end = min(first // FANOUT * FANOUT + FANOUT, leaves)
        masks = array("Q", [self._mask(leaf) for leaf in range(first, end)])
        while end < leaves and not self._mask(end):
            end += 1
        return first, masks, end

    def _mask(self, leaf: int) -> int:
        blocks = self.data[leaf * FANOUT : (leaf + 1) * FANOUT]
        return sum(is_data << slot for slot, is_data in enumerate(blocks))

    def expected(self, offset: int, kind: int) -> Answer:
        """Return the answer without the bound of work."""
        if kind not in SEEKS:
            return errno.EINVAL, None
        if offset >= self.size:
            return errno.ENXIO, None
        for block in range(offset // BLOCK, len(self.data)):
            if self.data[block] == (kind == os.SEEK_DATA):
                return 0, max(offset, block * BLOCK)
        return (errno.ENXIO, None) if kind == os.SEEK_DATA else (0, self.size)


def model_of(seed: int, blocks: int, tail: int) -> Model:
    """Return a disk of runs that one seek can search, whose last block has *tail* bytes."""
    rng = random.Random(seed)
    data: list[bool] = []
    while len(data) < blocks:
        data += [not (data and data[-1])] * rng.choice([1, 2, 63, 64, 65, 700, FANOUT**2 - 1])
    return Model((blocks - 1) * BLOCK + tail, data[:blocks])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    model=st.builds(
        model_of, st.integers(0, 1 << 32), st.integers(1, 3 * FANOUT**2), st.integers(1, BLOCK)
    ),
    seeks=st.lists(
        st.tuples(
            st.floats(0, 1.2),
            st.integers(-2, 2),
            st.sampled_from([*SEEKS, *SEEKS, 0, 1, 2, 5, (1 << 32) - 1]) | st.integers(0, 99),
        ),
        min_size=1,
        max_size=40,
    ),
)
def test_answers_match_a_list_of_blocks(
    kernel: Kernel, model: Model, seeks: list[tuple[float, int, int]]
) -> None:
    kernel.requests.drop_file(INODE)
    model.provide_to(kernel)

    for share, nudge, kind in seeks:
        offset = max(int(model.size * share) // BLOCK * BLOCK + nudge, 0)
        assert seek(kernel, offset, kind) == model.expected(offset, kind)


@pytest.mark.parametrize("kind", SEEKS)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_seek_at_or_beyond_the_end_is_enxio(kernel: Kernel, kind: int, is_known: bool) -> None:
    size = 5 * BLOCK + 1
    Model(size, [True] * 6).provide_to(kernel)
    if is_known:
        kernel.requests.add_disk(INODE, size, BLOCK)

    for offset in (size, size + 1, 5 * size, 1 << 63, (1 << 64) - 1):
        assert seek(kernel, offset, kind) == (errno.ENXIO, None)
    assert seek(kernel, size - 1, kind)[0] == 0


@pytest.mark.parametrize("kind", SEEKS)
def test_every_seek_in_an_empty_file_is_enxio(kernel: Kernel, kind: int) -> None:
    Model(0, []).provide_to(kernel)

    assert seek(kernel, 0, kind) == (errno.ENXIO, None)


def test_the_largest_file_is_searched_to_its_end(kernel: Kernel) -> None:
    size = (1 << 63) - 1
    last = size // LEAF
    kernel.requests.add_disk(INODE, size, BLOCK)
    kernel.requests.put_map(INODE, 0, b"", last)
    kernel.requests.put_map(INODE, last, array("Q", [1 << 63]), last + 1)

    assert seek(kernel, 0, os.SEEK_DATA) == (0, size - size % BLOCK)
    assert seek(kernel, size - 1, os.SEEK_HOLE) == (0, size)


def test_a_seek_loads_a_bounded_part_of_the_map_and_progresses(kernel: Kernel) -> None:
    model = Model(20 * GROUP, [True] * (20 * FANOUT**2))
    model.provide_to(kernel)

    assert seek(kernel, BLOCK, os.SEEK_HOLE) == (0, BOUND * GROUP)
    assert model.parts == BOUND
    assert seek(kernel, BOUND * GROUP, os.SEEK_DATA) == (0, BOUND * GROUP)
    assert seek(kernel, BOUND * GROUP, os.SEEK_HOLE) == (0, (2 * BOUND + 1) * GROUP)
    assert seek(kernel, 0, os.SEEK_HOLE) == (0, (3 * BOUND + 1) * GROUP)
    assert model.parts == 3 * BOUND + 1


def test_a_wide_hole_is_passed_in_one_part(kernel: Kernel) -> None:
    model = Model(40 * GROUP, [False] * (40 * FANOUT**2 - 1) + [True])
    model.provide_to(kernel)

    assert seek(kernel, 0, os.SEEK_DATA) == (0, model.size - BLOCK)
    assert model.parts == 2


def test_an_unreadable_part_is_an_error_and_not_a_hole(kernel: Kernel) -> None:
    damaged = 3
    model = Model(2 * GROUP, ([True] * FANOUT + [False] * FANOUT) * FANOUT)

    def prepare_seek(inode: int, offset: int) -> int | None:
        first, masks, _ = model.part(offset // LEAF)
        if first >= damaged:
            return -errno.EIO
        kernel.requests.add_disk(inode, model.size, BLOCK)
        kernel.requests.put_map(inode, first, masks[: damaged - first], damaged)
        return None

    kernel.prepare_seek = prepare_seek

    assert seek(kernel, 0, os.SEEK_HOLE) == (0, LEAF)
    assert seek(kernel, LEAF, os.SEEK_DATA) == (0, 2 * LEAF)
    assert seek(kernel, damaged * LEAF - 1, os.SEEK_DATA) == (0, damaged * LEAF - 1)
    assert seek(kernel, damaged * LEAF - 1, os.SEEK_HOLE) == (errno.EIO, None)
    assert seek(kernel, damaged * LEAF, os.SEEK_HOLE) == (errno.EIO, None)
    assert seek(kernel, damaged * LEAF, os.SEEK_DATA) == (errno.EIO, None)


@pytest.mark.parametrize("kind", SEEKS)
def test_a_file_without_a_map_is_data(kernel: Kernel, kind: int) -> None:
    kernel.prepare_seek = lambda inode, offset: 100

    assert seek(kernel, 30, kind) == (0, 30 if kind == os.SEEK_DATA else 100)
    assert seek(kernel, 100, kind) == (errno.ENXIO, None)


@pytest.mark.parametrize("result", [-512, -(1 << 40), 1 << 70, -(1 << 70), "text"], ids=repr)
def test_an_invalid_result_becomes_eio(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, result: Any
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    kernel.prepare_seek = lambda inode, offset: result

    assert seek(kernel, 0, os.SEEK_DATA) == (errno.EIO, None)
    assert len(reported) == (result not in (-512, -(1 << 40)))


def test_errnos_reach_the_kernel(kernel: Kernel) -> None:
    kernel.prepare_seek = lambda inode, offset: -errno.ESTALE

    assert seek(kernel, 0, os.SEEK_DATA) == (errno.ESTALE, None)


def test_a_file_that_stays_unknown_is_eio(kernel: Kernel) -> None:
    assert seek(kernel, 0, os.SEEK_DATA) == (errno.EIO, None)
    assert seek(kernel, 0, os.SEEK_HOLE) == (errno.EIO, None)


def test_a_reused_inode_number_has_no_map_of_the_previous_file(kernel: Kernel) -> None:
    kernel.requests.add_disk(INODE, LEAF, BLOCK)
    kernel.requests.put_map(INODE, 0, array("Q", [1]), 1)
    assert seek(kernel, 0, os.SEEK_HOLE) == (0, BLOCK)

    kernel.requests.drop_file(INODE)
    kernel.requests.add_disk(INODE, LEAF, BLOCK)
    kernel.prepare_seek = lambda inode, offset: -errno.ENOENT

    assert seek(kernel, 0, os.SEEK_HOLE) == (errno.ENOENT, None)


def test_more_ranges_than_the_table_holds_replace_each_other(kernel: Kernel) -> None:
    inodes = range(INODE, INODE + 3000)
    for inode in inodes:
        kernel.requests.add_disk(inode, GROUP, BLOCK)
        kernel.requests.put_map(inode, 0, array("Q", [inode]), FANOUT)

    def prepare_seek(inode: int, offset: int) -> None:
        kernel.requests.put_map(inode, 0, array("Q", [inode]), FANOUT)

    kernel.prepare_seek = prepare_seek

    for inode in inodes:
        lowest_bit = (inode & -inode).bit_length() - 1
        assert seek(kernel, 0, os.SEEK_DATA, inode) == (0, lowest_bit * BLOCK)


@pytest.mark.parametrize(
    ("first", "masks", "end"),
    [
        (0, bytes(7), 1),
        (0, b"", 0),
        (5, b"", 4),
        (0, bytes(16), 1),
        (63, bytes(16), 70),
        (0, bytes(8 * 65), 65),
        (0, b"", (1 << 57) + 1),
    ],
)
def test_an_invalid_range_is_refused(kernel: Kernel, first: int, masks: bytes, end: int) -> None:
    with pytest.raises(ValueError, match="invalid range"):
        kernel.requests.put_map(INODE, first, masks, end)
