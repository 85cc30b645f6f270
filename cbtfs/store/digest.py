"""Digests of objects: BLAKE3-256 over kind, level and content (docs/format.md)."""

from collections.abc import Sequence

from blake3 import blake3

from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest

_PREFIX = b"cbtfs\0"


def _prefix(kind: Kind, level: int) -> bytes:
    return _PREFIX + bytes((kind, level))


CHUNK_PREFIX = _prefix(Kind.CHUNK, 0)


def digest_of(kind: Kind, level: int, content: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of an object whose plain content is *content*."""
    prefix = CHUNK_PREFIX if kind is Kind.CHUNK else _prefix(kind, level)
    return Digest(blake3(prefix).update(content).digest())


def chunk_digest(block: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of the bytes of a block."""
    return Digest(blake3(CHUNK_PREFIX).update(block).digest())


def prefixed_digest(data: memoryview) -> Digest:
    """Return the digest of a block; *data* is CHUNK_PREFIX followed by the block."""
    return Digest(blake3(data).digest())


def node_content(children: Sequence[Digest | None]) -> bytes:
    """Return the payload of a node: the digests of its children, NULL_DIGEST for a null child."""
    return b"".join(NULL_DIGEST if child is None else child for child in children)
