"""Digests of objects: BLAKE3-256 over kind, level and content (docs/format.md).

An encrypted repository has a key of digests, so nobody can test without it which content is there.
Compiled code computes digests where the processor allows it, and the library blake3 elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from cbtfs import native
from cbtfs.core.frame import Kind
from cbtfs.core.ids import DIGEST_BYTES, NULL_DIGEST, Digest

_PREFIX = b"cbtfs\0"

Bytes = bytes | bytearray | memoryview


def _prefix(kind: Kind, level: int) -> bytes:
    return _PREFIX + bytes((kind, level))


CHUNK_PREFIX = _prefix(Kind.CHUNK, 0)


def _hasher(data: Bytes, key: bytes | None) -> Any:
    from blake3 import blake3  # here, because most processors need no library

    return blake3(data) if key is None else blake3(data, key=key)


def _by_library(prefix: bytes, content: Bytes, _lanes: int, key: bytes | None) -> bytes:
    digest: bytes = _hasher(prefix, key).update(content).digest()
    return digest


_hash: Callable[[bytes, Bytes, int, bytes | None], bytes] = (
    native.blake3 if native.has_blake3() else _by_library
)


class Digester:
    """Computes the digests of one repository."""

    def __init__(self, key: bytes | None = None) -> None:
        """*key* has 32 bytes; None: the digests have no key."""
        self.key: Final = key

    def object(self, kind: Kind, level: int, content: Bytes) -> Digest:
        """Return the digest of an object whose plain content is *content*."""
        prefix = CHUNK_PREFIX if kind is Kind.CHUNK else _prefix(kind, level)
        return Digest(_hash(prefix, content, 0, self.key))

    def chunk(self, block: Bytes) -> Digest:
        """Return the digest of the bytes of a block."""
        return Digest(_hash(CHUNK_PREFIX, block, 0, self.key))

    def prefixed(self, data: memoryview) -> Digest:
        """Return the digest of a block; *data* is CHUNK_PREFIX followed by the block."""
        return Digest(_hasher(data, self.key).digest())

    @property
    def check(self) -> Callable[[memoryview], Digest] | None:
        """Argument of Chunks: None for compiled code, or a function."""
        return None if native.has_blake3() else self.prefixed

    def matching_blocks(self, data: memoryview, block_size: int, digests: bytes) -> Sequence[int]:
        """Return for each block of *data* whether it has its digest: 1 or 0.

        *digests* has the digest of each block, NULL_DIGEST for zeros. The last block is padded
        with zeros to *block_size*.
        """
        if native.has_blake3():
            return native.matching_blocks(data, block_size, digests, self.key)
        return [*self._matching_by_library(data, block_size, digests)]

    def _matching_by_library(
        self, data: memoryview, block_size: int, digests: bytes
    ) -> Iterator[int]:
        for number, start in enumerate(range(0, len(data), block_size)):
            block = bytes(data[start : start + block_size])
            digest = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
            if digest == NULL_DIGEST:
                yield not block.strip(b"\0")
            else:
                padded = block.ljust(block_size, b"\0")
                yield _by_library(CHUNK_PREFIX, padded, 0, self.key) == digest


UNKEYED: Final = Digester()
"""The digests of repositories without encryption."""
CHECK_OF_CHUNKS: Final = UNKEYED.check
digest_of: Final = UNKEYED.object
chunk_digest: Final = UNKEYED.chunk
prefixed_digest: Final = UNKEYED.prefixed
matching_blocks: Final = UNKEYED.matching_blocks


def node_content(children: Sequence[Digest | None]) -> bytes:
    """Return the payload of a node: the digests of its children, NULL_DIGEST for a null child."""
    return b"".join(NULL_DIGEST if child is None else child for child in children)
