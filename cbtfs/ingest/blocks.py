"""Memory in which blocks of a disk are read, looked at and hashed, some at a time."""

from collections.abc import Iterator
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.ids import Digest
from cbtfs.source.base import DiskSource
from cbtfs.store.digest import CHUNK_PREFIX, prefixed_digest

READ_BYTES: Final = 512 << 10
"""What is read at a time: what was read is still near the processor when it is hashed."""
_GAP: Final = 64
"""Room before each block, which stays aligned: to read it elsewhere takes thrice as long."""


class Blocks:
    """Room for some blocks of one source, each behind the prefix of its digest.

    One pass over both hashes a block in two thirds of the time that two take: after a prefix, no
    KiB of the block lies where vector instructions want it.
    """

    def __init__(self, source: DiskSource, block_size: int) -> None:
        self._source = source
        self._size = block_size
        self._zeros = bytes(block_size)
        self._room = max(READ_BYTES // block_size, 1)
        stride = _GAP + block_size
        self._memory = bytearray(self._room * stride)
        view = memoryview(self._memory)
        self._starts = [at + _GAP for at in range(0, len(view), stride)]
        self._contents = [view[at : at + block_size] for at in self._starts]
        self._prefixed = [view[at - len(CHUNK_PREFIX) : at + block_size] for at in self._starts]
        for prefixed in self._prefixed:
            prefixed[: len(CHUNK_PREFIX)] = CHUNK_PREFIX

    def fill(self, extent: Extent) -> Iterator[int]:
        """Read the blocks of *extent*, as many at a time as fit; yield how many were read.

        The last one is padded. A source that is not local is asked for all of them at once,
        because each read costs a round trip.
        """
        is_local = self._source.is_local
        data = memoryview(b"" if is_local else self._source.read(extent))
        step = self._room * self._size
        for start in range(0, extent.length, step):
            length = min(step, extent.length - start)
            parts = self._parts(length)
            if is_local:
                self._source.read_into(Extent(extent.start + start, length), parts)
            else:
                for part in parts:
                    part[:] = data[: len(part)]
                    data = data[len(part) :]
            yield len(parts)

    def _parts(self, length: int) -> list[memoryview]:
        whole, rest = divmod(length, self._size)
        parts = self._contents[:whole]
        if rest:
            parts.append(self._contents[whole][:rest])
            self._contents[whole][rest:] = self._zeros[rest:]
        return parts

    def is_zero(self, index: int) -> bool:
        return self._memory.startswith(self._zeros, self._starts[index])

    def digest(self, index: int) -> Digest:
        return prefixed_digest(self._prefixed[index])

    def content(self, index: int) -> memoryview:
        """A copy of a block's bytes."""
        return memoryview(bytes(self._contents[index]))
