"""Blocks are the same wherever a source puts them, and whatever was there before."""

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
    """Of every block: data, or zeros for each third; the last one short."""
    noise = random.Random(1).randbytes(SIZE)
    found = [noise[at : at + BLOCK] for at in range(0, SIZE, BLOCK)]
    return [bytes(len(each)) if index % 3 == 1 else each for index, each in enumerate(found)]


CONTENTS = contents()


class Remote(WrappedSource):
    """A source that prefers large reads."""

    is_local = False


@pytest.fixture(params=["local", "remote"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskSource]:
    (tmp_path / "disk.raw").write_bytes(b"".join(CONTENTS))
    with closing(ImageSource(tmp_path / "disk.raw")) as image:
        yield image if request.param == "local" else Remote(image)


def test_blocks_are_those_of_the_source_and_padded_at_its_end(source: DiskSource) -> None:
    blocks = Blocks(source, BLOCK)
    padded = [each.ljust(BLOCK, b"\0") for each in CONTENTS]

    found = [
        (bytes(blocks.content(at)), blocks.digest(at), blocks.is_zero(at))
        for count in blocks.fill(Extent(0, SIZE))
        for at in range(count)
    ]

    assert found == [(each, chunk_digest(each), not any(each)) for each in padded]


def test_what_was_there_before_does_not_show(source: DiskSource) -> None:
    blocks = Blocks(source, BLOCK)
    for _ in blocks.fill(Extent(0, READ_BYTES)):
        pass

    (count,) = blocks.fill(Extent(SIZE - 700, 700))

    assert count == 1
    assert blocks.content(0) == CONTENTS[-1].ljust(BLOCK, b"\0")
