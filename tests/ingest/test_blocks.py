"""Blocks are correct for local and remote sources, whatever the buffers contained before."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent
from cbtfs.ingest.blocks import READ_BYTES, Blocks
from cbtfs.source.base import DiskSource
from cbtfs.source.image import ImageSource
from cbtfs.source.wrappers import WrappedSource
from cbtfs.store.digest import chunk_digest

BLOCK = 64 << 10
SIZE = READ_BYTES * 2 + BLOCK + 700


def contents() -> list[bytes]:
    """Return the blocks of a disk: every third is zeros, the last one is short."""
    noise = random.Random(1).randbytes(SIZE)
    blocks = [noise[at : at + BLOCK] for at in range(0, SIZE, BLOCK)]
    return [bytes(len(block)) if n % 3 == 1 else block for n, block in enumerate(blocks)]


CONTENTS = contents()


class Remote(WrappedSource):
    """A source that prefers large reads."""

    is_local = False


@pytest.fixture(params=["local", "remote"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskSource]:
    (tmp_path / "disk.raw").write_bytes(b"".join(CONTENTS))
    with closing(ImageSource(tmp_path / "disk.raw")) as image:
        yield image if request.param == "local" else Remote(image)


def test_blocks_equal_those_of_the_source_and_the_last_is_padded(source: DiskSource) -> None:
    blocks = Blocks(source, BLOCK)
    padded = [block.ljust(BLOCK, b"\0") for block in CONTENTS]

    filled = [
        (bytes(blocks.content(at)), blocks.digest(at), blocks.is_zero(at))
        for count in blocks.fill(Extent(0, SIZE))
        for at in range(count)
    ]

    assert filled == [(block, chunk_digest(block), not any(block)) for block in padded]


def test_earlier_content_of_the_buffers_is_overwritten(source: DiskSource) -> None:
    blocks = Blocks(source, BLOCK)
    for _ in blocks.fill(Extent(0, READ_BYTES)):
        pass

    (count,) = blocks.fill(Extent(SIZE - 700, 700))

    assert count == 1
    assert blocks.content(0) == CONTENTS[-1].ljust(BLOCK, b"\0")
