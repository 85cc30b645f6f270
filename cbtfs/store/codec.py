"""Payloads: what is compressed, what is stored raw, and how either is trusted."""

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

import zstandard

from cbtfs.core.frame import Codec, Frame, Kind
from cbtfs.core.ids import NULL_DIGEST, Digest
from cbtfs.errors import DataCorrupt
from cbtfs.native import crc_table
from cbtfs.store.digest import digest_of

DEFAULT_LEVEL: Final = 1
"""zstd level 1: the fastest that still shrinks text to a third."""

_MIN_SAVING: Final = 10
"""A payload is compressed only if that saves at least one part in so many."""


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
    """Encodes objects; one for each thread, as a compression context is not shared."""

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        self._zstd = zstandard.ZstdCompressor(
            level=level, write_checksum=False, write_content_size=True, write_dict_id=False
        )

    def encode(
        self, kind: Kind, level: int, digest: Digest, content: bytes | memoryview
    ) -> Encoded:
        """*content* as it will be stored; *digest* must be its digest."""
        # Digests do not shrink: a node does by its null children alone.
        if kind is Kind.CHUNK or bytes(content).find(NULL_DIGEST) >= 0:
            packed = self._zstd.compress(content)
            if _saves(len(packed), len(content)):
                return Encoded(kind, level, Codec.ZSTD, len(content), digest, b"", packed)
        table = crc_table(content) if kind is Kind.CHUNK else b""
        return Encoded(kind, level, Codec.STORED, len(content), digest, table, content)

    def encode_chunks(
        self, digests: Sequence[Digest], contents: Sequence[memoryview]
    ) -> list[Encoded]:
        """Chunks as they will be stored; the interpreter's lock is let go once for all of them.

        What is stored raw is not copied: *contents* must stay as they are.
        """
        if not contents:
            return []
        found = []
        packed = self._zstd.multi_compress_to_buffer(list(contents), threads=1)
        for index, (digest, content) in enumerate(zip(digests, contents, strict=True)):
            plain, payload = len(content), packed[index]
            found.append(
                Encoded(Kind.CHUNK, 0, Codec.ZSTD, plain, digest, b"", payload.tobytes())
                if _saves(len(payload), plain)
                else Encoded(
                    Kind.CHUNK, 0, Codec.STORED, plain, digest, crc_table(content), content
                )
            )
        return found


def _saves(packed: int, plain: int) -> bool:
    return packed <= plain - plain // _MIN_SAVING


class _Decompressors(threading.local):
    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor(max_window_size=1 << 23)


_decompressors = _Decompressors()


Payload = bytes | bytearray | memoryview


def decode(frame: Frame, payload: Payload) -> Payload:
    """The plain content of *frame*, verified against its digest; DataCorrupt if it fails.

    It is *payload* itself where that is stored raw.
    """
    content = payload if frame.codec is Codec.STORED else _decompress(frame, payload)
    if len(content) != frame.plain:
        raise DataCorrupt(f"{frame.plain} bytes expected, {len(content)} found")
    if digest_of(frame.kind, frame.level, content) != frame.digest:
        raise DataCorrupt("content does not have its digest")
    return content


def _decompress(frame: Frame, payload: Payload) -> bytes:
    # The library ignores max_output_size where a frame declares its size: look at that first.
    try:
        declared = zstandard.get_frame_parameters(payload).content_size
        if declared != frame.plain:
            raise DataCorrupt(f"{frame.plain} bytes expected, {declared} declared")
        return _decompressors.zstd.decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise DataCorrupt(f"content does not decompress: {exc}") from exc
