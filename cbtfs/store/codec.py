"""Payloads of objects: compressed or raw, and verified when they are decoded."""

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

import zstandard

from cbtfs.core.frame import Codec, Frame, Kind
from cbtfs.core.ids import NULL_DIGEST, Digest
from cbtfs.errors import DataCorrupt
from cbtfs.native import crc_table
from cbtfs.store.digest import UNKEYED, Digester

DEFAULT_LEVEL: Final = 1
"""zstd level 1: the fastest that still shrinks text to a third."""

_MIN_SAVING: Final = 10
"""A payload is compressed only if that saves at least a tenth of its size."""


class Encoded(NamedTuple):
    """A payload as it is stored, ready for a frame."""

    kind: Kind
    level: int
    codec: Codec
    plain: int
    digest: Digest
    table: bytes
    payload: bytes | memoryview


class Encoder:
    """Encodes objects. Threads do not share an encoder: it has a compression context."""

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        self._zstd = zstandard.ZstdCompressor(
            level=level, write_checksum=False, write_content_size=True, write_dict_id=False
        )

    def encode(
        self, kind: Kind, level: int, digest: Digest, content: bytes | memoryview
    ) -> Encoded:
        """Return *content* as it will be stored; *digest* must be its digest."""
        # Digests do not compress, so a node gets smaller only by its null children.
        if kind is Kind.CHUNK or bytes(content).find(NULL_DIGEST) >= 0:
            packed = self._zstd.compress(content)
            if _saves(len(packed), len(content)):
                return Encoded(kind, level, Codec.ZSTD, len(content), digest, b"", packed)
        table = crc_table(content) if kind is Kind.CHUNK else b""
        return Encoded(kind, level, Codec.STORED, len(content), digest, table, content)

    def encode_chunks(
        self, digests: Sequence[Digest], contents: Sequence[memoryview]
    ) -> list[Encoded]:
        """Return chunks as they will be stored; releases the GIL once for all chunks.

        Raw payloads are not copied, so *contents* must not change.
        """
        if not contents:
            return []
        encoded = []
        packed = self._zstd.multi_compress_to_buffer(list(contents), threads=1)
        for index, (digest, content) in enumerate(zip(digests, contents, strict=True)):
            plain, payload = len(content), packed[index]
            encoded.append(
                Encoded(Kind.CHUNK, 0, Codec.ZSTD, plain, digest, b"", payload.tobytes())
                if _saves(len(payload), plain)
                else Encoded(
                    Kind.CHUNK, 0, Codec.STORED, plain, digest, crc_table(content), content
                )
            )
        return encoded


def _saves(packed: int, plain: int) -> bool:
    return packed <= plain - plain // _MIN_SAVING


class _Decompressors(threading.local):
    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor(max_window_size=1 << 23)


_decompressors = _Decompressors()


Payload = bytes | bytearray | memoryview


def decode(frame: Frame, payload: Payload, digester: Digester = UNKEYED) -> Payload:
    """Return the plain content of *frame*; DataCorrupt if its digest does not match.

    This is *payload* itself if it is stored raw.
    """
    content = payload if frame.codec is Codec.STORED else _decompress(frame, payload)
    if len(content) != frame.plain:
        raise DataCorrupt(f"{frame.plain} bytes expected, {len(content)} found")
    if digester.object(frame.kind, frame.level, content) != frame.digest:
        raise DataCorrupt("the digest of the content does not match")
    return content


def _decompress(frame: Frame, payload: Payload) -> bytes:
    # The library ignores max_output_size if a frame declares its size: check that first.
    try:
        declared = zstandard.get_frame_parameters(payload).content_size
        if declared != frame.plain:
            raise DataCorrupt(f"{frame.plain} bytes expected, {declared} declared")
        return _decompressors.zstd.decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise DataCorrupt(f"content does not decompress: {exc}") from exc


_INDEX_LEVEL: Final = 3
"""zstd level of indexes: a tenth smaller than level 1, and decompressed as fast."""


def compressed(content: bytes) -> bytes:
    """Return *content* as a zstd frame that states its size."""
    return zstandard.ZstdCompressor(_INDEX_LEVEL, write_content_size=True).compress(content)


def decompressed(data: Payload, plain: int) -> bytes:
    """Return the content of a frame, which has *plain* bytes.

    Raises:
        DataCorrupt: it has another size, or does not decompress.
    """
    try:
        declared = zstandard.get_frame_parameters(data).content_size
        if declared != plain:
            raise DataCorrupt(f"{plain} bytes expected, {declared} declared")
        content = _decompressors.zstd.decompress(data, allow_extra_data=False) if plain else b""
    except zstandard.ZstdError as exc:
        raise DataCorrupt(f"content does not decompress: {exc}") from exc
    return content
