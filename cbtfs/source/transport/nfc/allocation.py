"""Turn the bitmap of allocated chunks into extents."""

import re
from collections.abc import Iterator
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.source.transport.nfc.wire import CHUNK

_RUN: Final = re.compile("1+")


def allocated_extents(bitmap: bytes, first: int, count: int) -> Iterator[Extent]:
    """Yield the allocated extents of *count* chunks from chunk *first* on, ascending and disjoint.

    The lowest bit of a byte is its first chunk; bits beyond *count* are padding.
    """
    bits = int.from_bytes(bitmap, "little")
    digits = f"{bits:0{len(bitmap) * 8}b}"[::-1][:count]
    for run in _RUN.finditer(digits):
        yield Extent((first + run.start()) * CHUNK, (run.end() - run.start()) * CHUNK)
