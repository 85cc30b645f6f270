"""Digests of objects: BLAKE3-256 over kind, level and content (docs/format.md).

Compiled code computes them where the processor allows it, and the library blake3 elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from blake3 import blake3

from cbtfs import native
from cbtfs.core.frame import Kind
from cbtfs.core.ids import DIGEST_BYTES, NULL_DIGEST, Digest

_PREFIX = b"cbtfs\0"


def _prefix(kind: Kind, level: int) -> bytes:
    return _PREFIX + bytes((kind, level))


CHUNK_PREFIX = _prefix(Kind.CHUNK, 0)


def _by_library(prefix: bytes, content: bytes | bytearray | memoryview) -> bytes:
    return blake3(prefix).update(content).digest()


def prefixed_digest(data: memoryview) -> Digest:
    """Return the digest of a block; *data* is CHUNK_PREFIX followed by the block."""
    return Digest(blake3(data).digest())


_hash: Callable[[bytes, bytes | bytearray | memoryview], bytes] = (
    native.blake3 if native.has_blake3() else _by_library
)
CHECK_OF_CHUNKS: Final = None if native.has_blake3() else prefixed_digest
"""Argument of Chunks: compiled code, or a function."""


def digest_of(kind: Kind, level: int, content: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of an object whose plain content is *content*."""
    return Digest(_hash(CHUNK_PREFIX if kind is Kind.CHUNK else _prefix(kind, level), content))


def chunk_digest(block: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of the bytes of a block."""
    return Digest(_hash(CHUNK_PREFIX, block))


def node_content(children: Sequence[Digest | None]) -> bytes:
    """Return the payload of a node: the digests of its children, NULL_DIGEST for a null child."""
    return b"".join(NULL_DIGEST if child is None else child for child in children)


def matching_blocks(data: memoryview, block_size: int, digests: bytes) -> Sequence[int]:
    """Return for each block of *data* whether it has its digest: 1 or 0.

    *digests* has the digest of each block, NULL_DIGEST for zeros. The last block is padded with
    zeros to *block_size*.
    """
    if native.has_blake3():
        return native.matching_blocks(data, block_size, digests)
    return [*_matching_by_library(data, block_size, digests)]


def _matching_by_library(data: memoryview, block_size: int, digests: bytes) -> Iterator[int]:
    for number, start in enumerate(range(0, len(data), block_size)):
        block = bytes(data[start : start + block_size])
        digest = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        if digest == NULL_DIGEST:
            yield not block.strip(b"\0")
        else:
            yield _by_library(CHUNK_PREFIX, block.ljust(block_size, b"\0")) == digest
