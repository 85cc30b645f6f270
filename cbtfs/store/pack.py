"""One pack: appended to while it is open, immutable once it is closed."""

from collections.abc import Iterator
from typing import Final

from cbtfs.core.frame import (
    FOOTER_BYTES,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    MAX_PACK_BYTES,
    MAX_PLAIN_BYTES,
    MAX_TRAILER_BYTES,
    PACK_HEADER_BYTES,
    Frame,
    decode_footer,
    decode_frame_header,
    decode_pack_header,
    decode_trailer,
    encode_frame_header,
    encode_pack_header,
    encode_trailer,
    table_of,
)
from cbtfs.core.frame import PIECE_BYTES as PIECE
from cbtfs.core.ids import PackId
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.shortage import refuse_shortage
from cbtfs.store.backend.base import Buffers, OpenObject, Upload
from cbtfs.store.codec import Encoded, decode

PACK_BYTES: Final = 64 << 20
"""A pack is closed when it has grown to this size."""

_BUFFER_BYTES: Final = 1 << 20
_LONGEST_HEADER: Final = FRAME_HEADER_BYTES + MAX_PLAIN_BYTES // PIECE * 4
_WINDOW_BYTES: Final = 4 << 20
"""Bytes of a pack that a scan holds in memory."""


class PackWriter:
    """A pack that is being written: no reader finds it before close() has flushed it."""

    def __init__(self, pack: PackId, upload: Upload) -> None:
        self.id = pack
        self._upload = upload
        self._pending: list[bytes | memoryview] = [encode_pack_header(pack)]
        self._pending_bytes = PACK_HEADER_BYTES
        self.size = PACK_HEADER_BYTES
        self.frames: list[Frame] = []

    def append(self, encoded: Encoded) -> Frame:
        """Add a frame; it may stay in memory until a later call."""
        frame = Frame(
            self.size,
            len(encoded.payload),
            encoded.plain,
            encoded.kind,
            encoded.level,
            encoded.codec,
            encoded.digest,
        )
        head = encode_frame_header(frame, encoded.table)
        self._pending += (head, encoded.payload)
        length = len(head) + frame.stored
        self._pending_bytes += length
        self.size += length
        self.frames.append(frame)
        if self._pending_bytes >= _BUFFER_BYTES:
            self._flush()
        return frame

    def _flush(self) -> None:
        self._upload.write(self._pending)
        self._pending.clear()
        self._pending_bytes = 0

    def close(self) -> int:
        """Write trailer and footer, flush, give the pack its name; return its size in bytes."""
        trailer = encode_trailer(self.frames, self.size, self.id)
        self._pending.append(trailer)
        self._flush()
        self._upload.close()
        return self.size + len(trailer)

    def abandon(self) -> None:
        """Remove the pack, which nothing refers to. May be called after close() failed."""
        self._upload.abandon()


class Pack:
    """A closed pack, open for reading until its last reference is dropped."""

    def __init__(self, opened: OpenObject) -> None:
        """Own *opened*."""
        self._opened = opened
        self._path = opened.path
        self.file = opened.file
        self.size = opened.size

    def load(self, frame: Frame) -> bytes:
        """Return the content of the object at *frame*, verified by its digest.

        Raises:
            ChunkMissing: the location holds no frame or that of another object.
            DataCorrupt: the frame is damaged.
        """
        head = bytearray(frame.payload_offset - frame.offset)
        payload = bytearray(frame.stored)
        count = self._read_into((head, payload), frame.offset)
        if count < len(head) + len(payload):
            raise DataCorrupt(f"{self._path} ends within the frame at {frame.offset}")
        self._table(frame, head)
        return bytes(decode(frame, payload))

    def load_encoded(self, frame: Frame) -> Encoded:
        """Return the object at *frame* as it is stored, verified, to be copied to another pack.

        Raises the errors of load().
        """
        data = self._read(frame.offset, frame.end - frame.offset)
        table = self._table(frame, data[: frame.payload_offset - frame.offset])
        payload = data[frame.payload_offset - frame.offset :]
        decode(frame, payload)
        return Encoded(
            frame.kind, frame.level, frame.codec, frame.plain, frame.digest, table, payload
        )

    @property
    def is_removed(self) -> bool:
        """Whether the pack was deleted: its bytes take space until it is closed."""
        return self._opened.is_removed

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        count = self._read_into((data,), offset)
        return bytes(data[:count])

    def _read_into(self, buffers: Buffers, offset: int) -> int:
        """Fill *buffers* from *offset* on; return the bytes read, fewer only at the end of file."""
        try:
            return self._opened.read_into(buffers, offset)
        except OSError as exc:
            refuse_shortage(exc, f"cannot read {self._path}")
            raise DataCorrupt(f"cannot read {self._path}: {exc.strerror}") from exc

    def _table(self, frame: Frame, head: bytes | bytearray) -> bytes:
        """Return the table of CRCs of *frame*; *head* is its header and table as stored."""
        table = table_of(frame, head)
        if table is not None:
            return table
        try:
            decode_frame_header(self._read(frame.offset, _LONGEST_HEADER), frame.offset)
        except ValueError as exc:
            raise DataCorrupt(f"{self._path} at {frame.offset}: {exc}") from exc
        raise ChunkMissing(f"{self._path} at {frame.offset} holds another object")

    def trailer(self) -> list[Frame]:
        """Return the frames that the trailer lists; DataCorrupt if trailer or footer is damaged."""
        try:
            name = PackId(self._path.name)
            if self.size > MAX_PACK_BYTES:
                raise ValueError(f"{self.size} bytes exceed the maximum of {MAX_PACK_BYTES}")
            owner = decode_pack_header(self._read(0, PACK_HEADER_BYTES))
            if owner != name:
                raise ValueError(f"the header is of pack {owner}")
            footer_at = max(self.size - FOOTER_BYTES, 0)
            footer = decode_footer(self._read(footer_at, FOOTER_BYTES), self.size)
            if footer.pack != name:
                raise ValueError(f"the footer is of pack {footer.pack}")
            span = footer_at - footer.trailer_offset
            if span > MAX_TRAILER_BYTES:
                raise ValueError(f"the trailer of {span} bytes is too large to load")
            return decode_trailer(self._read(footer.trailer_offset, span), footer)
        except ValueError as exc:
            raise DataCorrupt(f"{self._path}: {exc}") from exc

    def scan(self) -> Iterator[Frame]:
        """Yield the frames with a valid header, without the help of the trailer.

        Reads the pack through a window of a few MiB, up to the maximum size of a pack.
        """
        end = min(self.size, MAX_PACK_BYTES)
        at = PACK_HEADER_BYTES
        while (at := self._opened.data_from(at)) < end:
            window = self._read(at, min(_WINDOW_BYTES + _LONGEST_HEADER, end - at))
            start, last = at, len(window) if at + len(window) >= end else _WINDOW_BYTES
            if not window:
                return  # The file was truncated meanwhile.
            at += last
            magic = window.find(FRAME_MAGIC)
            while 0 <= magic < last:
                try:
                    head = window[magic : magic + _LONGEST_HEADER]
                    frame, _ = decode_frame_header(head, start + magic)
                    if frame.end <= end:
                        yield frame
                    magic = frame.end - start
                    at = max(at, frame.end)
                except ValueError:
                    magic += 1
                magic = window.find(FRAME_MAGIC, magic)
