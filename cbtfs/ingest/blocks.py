"""Buffers for the blocks of a disk while they are read, tested for zeros, and hashed."""

from collections.abc import Iterator
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.ids import Digest
from cbtfs.source.base import DiskSource
from cbtfs.store.digest import CHUNK_PREFIX, UNKEYED, Digester

READ_BYTES: Final = 512 << 10
"""Size of a read, so small that the data is still in the processor's cache when it is hashed."""
_GAP: Final = 64
"""Bytes before each block, for the prefix of its digest. A multiple of the cache line: reads into
unaligned memory take three times as long."""


class Blocks:
    """Buffers for some blocks of one source, each after the prefix of its digest.

    Hashing prefix and block in one pass takes two thirds of the time of two passes, because with
    two passes the block is not aligned for vector instructions.
    """

    def __init__(self, source: DiskSource, block_size: int, digester: Digester = UNKEYED) -> None:
        self._digester = digester
        self._source = source
        self._size = block_size
        self._zeros = bytes(block_size)
        self._capacity = max(READ_BYTES // block_size, 1)
        stride = _GAP + block_size
        self._memory = bytearray(self._capacity * stride)
        view = memoryview(self._memory)
        self._starts = [at + _GAP for at in range(0, len(view), stride)]
        self._contents = [view[at : at + block_size] for at in self._starts]
        self._prefixed = [view[at - len(CHUNK_PREFIX) : at + block_size] for at in self._starts]
        for prefixed in self._prefixed:
            prefixed[: len(CHUNK_PREFIX)] = CHUNK_PREFIX

    def fill(self, extent: Extent) -> Iterator[int]:
        """Read the blocks of *extent*, as many at a time as fit; yield the number of each read.

        The last block is padded with zeros. If the source is not local, all blocks are read at
        once, because each read costs a round trip.
        """
        is_local = self._source.is_local
        data = memoryview(b"" if is_local else self._source.read(extent))
        step = self._capacity * self._size
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
        return self._digester.prefixed(self._prefixed[index])

    def content(self, index: int) -> memoryview:
        """Return a copy of the bytes of a block."""
        return memoryview(bytes(self._contents[index]))
