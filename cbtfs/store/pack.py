"""One pack: appended to while it is open, immutable once it is closed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from cbtfs.core.frame import (
    FOOTER_BYTES,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    MAX_PACK_BYTES,
    MAX_PLAIN_BYTES,
    MAX_TRAILER_BYTES,
    PACK_HEADER_BYTES,
    SEALED_ALIGNMENT,
    SEALED_KEY_BYTES,
    SEALED_START,
    SIGNATURE_BYTES,
    TAG_BYTES,
    Codec,
    Frame,
    Kind,
    SealedFooter,
    closing_bytes,
    decode_footer,
    decode_frame_header,
    decode_index,
    decode_pack_header,
    decode_sealed_footer,
    decode_sealed_head,
    decode_sealed_pack_header,
    decode_trailer,
    encode_frame_header,
    encode_index,
    encode_pack_header,
    encode_sealed_footer,
    encode_sealed_head,
    encode_sealed_pack_header,
    encode_trailer,
    table_of,
)
from cbtfs.core.frame import PIECE_BYTES as PIECE
from cbtfs.core.ids import PackId
from cbtfs.errors import ChunkMissing, DataCorrupt, KeyUnavailable, StoreUnreachable
from cbtfs.native import crc32, crc_table, open_header, open_payload, seal_frame
from cbtfs.shortage import refuse_shortage
from cbtfs.store.backend.base import Buffers, NoReply, OpenObject, Upload
from cbtfs.store.codec import Encoded, decode
from cbtfs.store.digest import UNKEYED, Digester

if TYPE_CHECKING:
    from cbtfs.store.encryption.keys import Keys, PackCipher

Loaded = TypeVar("Loaded")

PACK_BYTES: Final = 64 << 20
"""A pack is closed when it has grown to this size."""

_SEALED_HEADER: Final = FRAME_HEADER_BYTES + TAG_BYTES
_BUFFER_BYTES: Final = 1 << 20
_LONGEST_HEADER: Final = FRAME_HEADER_BYTES + MAX_PLAIN_BYTES // PIECE * 4
_WINDOW_BYTES: Final = 4 << 20
"""Bytes of a pack that a scan holds in memory."""


class PackWriter:
    """A pack that is being written: no reader finds it before close() has flushed it."""

    def __init__(self, pack: PackId, upload: Upload, keys: Keys | None = None) -> None:
        """*keys* encrypt the pack."""
        self.id = pack
        self._upload = upload
        self._cipher = None if keys is None else keys.new_pack(pack)
        self.signer = b"" if keys is None else keys.pack_signer
        """Signer of the pack for its PackRecord."""
        cipher = self._cipher
        header = (
            encode_pack_header(pack)
            if cipher is None
            else encode_sealed_pack_header(
                pack, cipher.epoch, cipher.wrapped, is_signed=cipher.signer is not None
            )
        )
        self._pending: list[bytes | memoryview] = [header]
        self._pending_bytes = self.size = len(header)
        self._crc = crc32(header, 0)
        self.frames: list[Frame] = []

    def append(self, encoded: Encoded) -> Frame:
        """Add a frame; it may stay in memory until a later call."""
        cipher = self._cipher
        frame = Frame(
            self.size,
            len(encoded.payload),
            encoded.plain,
            encoded.kind,
            encoded.level,
            encoded.codec,
            encoded.digest,
            cipher is not None,
        )
        if cipher is None:
            head = encode_frame_header(frame, encoded.table)
            self._pending += (head, encoded.payload)
        else:
            head = encode_sealed_head(frame)
            sealed = seal_frame(cipher.native, frame.offset, head, encoded.payload)
            self._crc = crc32(sealed, self._crc)
            self._pending.append(sealed)
        length = frame.end - frame.offset
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

    def _closing(self) -> bytes:
        """Return trailer and footer."""
        cipher = self._cipher
        if cipher is None:
            return encode_trailer(self.frames, self.size, self.id)
        index = cipher.seal_index(encode_index(self.frames), self.size)
        signer = cipher.signer
        signature = b"" if signer is None else signer.sign_pack(cipher.identity(index))
        trailer = index + cipher.wrapped + signature
        footer = SealedFooter(
            len(self.frames),
            self.size,
            crc32(trailer, 0),
            self.id,
            cipher.epoch,
            crc32(trailer, self._crc),
            signer is not None,
        )
        return trailer + encode_sealed_footer(footer)

    def close(self) -> int:
        """Write trailer and footer, flush, give the pack its name; return its size in bytes."""
        trailer = self._closing()
        self._pending.append(trailer)
        self._flush()
        self._upload.close()
        return self.size + len(trailer)

    def abandon(self) -> None:
        """Remove the pack, which nothing refers to. May be called after close() failed."""
        self._upload.abandon()


class Pack:
    """A closed pack, open for reading until its last reference is dropped."""

    def __init__(
        self, opened: OpenObject, keys: Keys | None = None, digester: Digester = UNKEYED
    ) -> None:
        """Own *opened*. *keys* decrypt the pack.

        Raises:
            DataCorrupt: the header cannot be read.
            KeyUnavailable: *keys* lack the epoch of the pack.
        """
        self._opened = opened
        self._path = opened.path
        self._digester = digester
        self.file = opened.file
        self.size = opened.size
        self._keys = keys
        self._cipher: PackCipher | None = None
        self._problem = ""
        if keys is not None:
            self._unlock(keys)

    @property
    def epoch(self) -> int:
        """Key epoch of an encrypted pack; 0 if it cannot be decrypted."""
        return 0 if self._cipher is None else self._cipher.epoch

    @property
    def is_sealed(self) -> bool:
        """Whether the pack is in an encrypted repository."""
        return self._keys is not None

    def _unlock(self, keys: Keys) -> None:
        """Decrypt the pack's key, from its header or from the copy in front of the footer."""
        for epoch, wrapped in self._wrapped():
            try:
                self._cipher = keys.pack(PackId(self._path.name), epoch, wrapped)
            except (ValueError, KeyUnavailable) as exc:
                self._problem = str(exc)
            else:
                break
        if self._cipher is not None and self._cipher.chunk_key is not None:
            self.file.set_key(self._cipher.chunk_key)

    def _wrapped(self) -> Iterator[tuple[int, bytes]]:
        """Yield epoch and encrypted key, as header and footer state them."""
        try:
            header = decode_sealed_pack_header(self._read(0, SEALED_START))
            yield header.epoch, header.key
        except ValueError as exc:
            self._problem = str(exc)
        try:
            at = max(self.size - FOOTER_BYTES, 0)
            footer = decode_sealed_footer(self._read(at, FOOTER_BYTES), self.size)
            at -= SEALED_KEY_BYTES + (SIGNATURE_BYTES if footer.is_signed else 0)
            yield footer.epoch, self._read(at, SEALED_KEY_BYTES)
        except ValueError as exc:
            self._problem = self._problem or str(exc)

    def _unlocked(self) -> PackCipher:
        if self._cipher is None:
            raise DataCorrupt(f"{self._path} cannot be decrypted: {self._problem}")
        return self._cipher

    def fetch(self, offset: int, length: int) -> None:
        """Put bytes of a remote pack into `file`, as far as there is space.

        Raises:
            ChunkMissing: the pack was deleted.
            DataCorrupt: it cannot be read.
            StoreUnreachable: the server does not answer.
        """
        with self._reading():
            self._opened.fetch(offset, length)

    def load(self, frame: Frame) -> bytes:
        """Return the content of the object at *frame*, verified by its digest.

        Raises:
            ChunkMissing: the location holds no frame or that of another object.
            DataCorrupt: the frame is damaged.
            KeyUnavailable: the key given cannot read content.
            StoreUnreachable: the server does not answer.
        """
        if frame.kind is Kind.NODE:
            self._opened.pin()
        return self._verified(frame.offset, frame.end, lambda: self._load(frame))

    def _verified(self, start: int, end: int, load: Callable[[], Loaded]) -> Loaded:
        """Return the result of *load*; if local copies of the bytes are damaged, fetch them."""
        try:
            return load()
        except (ChunkMissing, DataCorrupt):
            if not self._opened.fetch_again(start, end - start):
                raise
        return load()

    def _load(self, frame: Frame) -> bytes:
        if frame.is_sealed:
            return bytes(decode(frame, self._open_payload(frame), self._digester))
        head = bytearray(frame.payload_offset - frame.offset)
        payload = bytearray(frame.stored)
        count = self._read_into((head, payload), frame.offset)
        if count < len(head) + len(payload):
            raise DataCorrupt(f"{self._path} ends within the frame at {frame.offset}")
        self._table(frame, head)
        return bytes(decode(frame, payload, self._digester))

    def load_encoded(self, frame: Frame) -> Encoded:
        """Return the object at *frame* as it is stored, verified, to be copied to another pack.

        Raises the errors of load().
        """
        return self._verified(frame.offset, frame.end, lambda: self._load_encoded(frame))

    def _load_encoded(self, frame: Frame) -> Encoded:
        if frame.is_sealed:
            data: bytes = self._open_payload(frame)
            is_raw = frame.kind is Kind.CHUNK and frame.codec is Codec.STORED
            table = crc_table(data) if is_raw else b""
            payload = data
        else:
            data = self._read(frame.offset, frame.end - frame.offset)
            table = self._table(frame, data[: frame.payload_offset - frame.offset])
            payload = data[frame.payload_offset - frame.offset :]
        decode(frame, payload, self._digester)
        return Encoded(
            frame.kind, frame.level, frame.codec, frame.plain, frame.digest, table, payload
        )

    def _open_payload(self, frame: Frame) -> bytes:
        """Return the decrypted payload of a sealed frame; raises the errors of load()."""
        cipher = self._unlocked()
        if frame.kind is Kind.CHUNK and not cipher.can_read:
            raise KeyUnavailable("the key given cannot read content: give a key that can")
        data = memoryview(self._read(frame.offset, frame.end - frame.offset))
        if len(data) < frame.end - frame.offset:
            raise DataCorrupt(f"{self._path} ends within the frame at {frame.offset}")
        expected = encode_sealed_head(frame)
        head = open_header(cipher.native, frame.offset, data)
        if head is None:
            raise DataCorrupt(f"{self._path} at {frame.offset}: the tag of the header differs")
        if head != expected:
            raise ChunkMissing(f"{self._path} at {frame.offset} holds another object")
        table = data[frame.payload_offset - frame.offset - frame.table_bytes :]
        payload = open_payload(cipher.native, frame.offset, head, table)
        if payload is None:
            raise DataCorrupt(f"{self._path} at {frame.offset}: a tag of the payload differs")
        if any(data[frame.payload_offset + frame.stored - frame.offset :]):
            raise DataCorrupt(f"{self._path} at {frame.offset}: the padding is not empty")
        return payload

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
        with self._reading():
            return self._opened.read_into(buffers, offset)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Translate errors of the backend."""
        try:
            yield
        except FileNotFoundError as exc:
            raise ChunkMissing(f"pack {self._path.name} is gone") from exc
        except NoReply as exc:
            raise StoreUnreachable(f"cannot read {self._path}: {exc.strerror}") from exc
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
        return self._verified(0, self.size, self._trailer)

    def _trailer(self) -> list[Frame]:
        try:
            name = PackId(self._path.name)
            if self.size > MAX_PACK_BYTES:
                raise ValueError(f"{self.size} bytes exceed the maximum of {MAX_PACK_BYTES}")
            if self.is_sealed:
                return self._sealed_trailer(name)
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

    def _sealed_trailer(self, name: PackId) -> list[Frame]:
        footer, index, _ = self._closing(name)
        entries = self._unlocked().open_index(index, footer.trailer_offset)
        return decode_index(entries, footer.trailer_offset, is_sealed=True)

    def _closing(self, name: PackId) -> tuple[SealedFooter, bytes, bytes]:
        """Return footer, encrypted trailer and signature, which is empty if there is none."""
        header = decode_sealed_pack_header(self._read(0, SEALED_START))
        footer_at = max(self.size - FOOTER_BYTES, 0)
        footer = decode_sealed_footer(self._read(footer_at, FOOTER_BYTES), self.size)
        is_one = (header.epoch, header.is_signed) == (footer.epoch, footer.is_signed)
        if header.pack != name or footer.pack != name or not is_one:
            raise ValueError(f"header and footer are of packs {header.pack} and {footer.pack}")
        span = footer_at - footer.trailer_offset
        if span > MAX_TRAILER_BYTES:
            raise ValueError(f"the trailer of {span} bytes is too large to load")
        data = self._read(footer.trailer_offset, span)
        end = span - (SIGNATURE_BYTES if footer.is_signed else 0)
        index, wrapped = data[: end - SEALED_KEY_BYTES], data[end - SEALED_KEY_BYTES : end]
        if zlib.crc32(data) != footer.trailer_crc or wrapped != header.key:
            raise ValueError("pack trailer fails its checksum")
        cipher = self._unlocked()
        if (cipher.epoch, cipher.wrapped) != (header.epoch, wrapped):
            raise ValueError("the key in the pack header is damaged")
        return footer, index, data[end:]

    def identity(self) -> tuple[bytes, bytes | None]:
        """Return the identity of an encrypted pack, and the public key that signed it.

        The key is None if there is no valid signature. The identity is empty if header or trailer
        is damaged.
        """
        from cbtfs.store.encryption.signatures import signer_of_pack

        try:
            footer, index, signature = self._closing(PackId(self._path.name))
            cipher = self._unlocked()
            cipher.open_index(index, footer.trailer_offset)
        except (ValueError, DataCorrupt):
            return b"", None
        identity = cipher.identity(index)
        return identity, signer_of_pack(signature, identity)

    def scan(self) -> Iterator[Frame]:
        """Yield the frames with a valid header, without the help of the trailer.

        Reads the pack through a window of a few MiB, up to the maximum size of a pack.
        """
        if self.is_sealed:
            yield from self._scan_sealed()
            return
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

    def _scan_sealed(self) -> Iterator[Frame]:
        """Yield the frames whose header has the right tag, at multiples of the alignment."""
        if self._cipher is None:
            return
        end = min(self.size, MAX_PACK_BYTES)
        keys, at = self._cipher.native, SEALED_START
        while (at := self._opened.data_from(at)) < end:
            at -= at % SEALED_ALIGNMENT
            start, window = at, memoryview(self._read(at, min(_WINDOW_BYTES, end - at)))
            if not window:
                return  # The file was truncated meanwhile.
            is_last = start + len(window) >= end
            last = len(window) if is_last else len(window) - _SEALED_HEADER
            while at - start < last:
                head = open_header(keys, at, window[at - start : at - start + _SEALED_HEADER])
                try:
                    if head is None:
                        raise ValueError("not a frame")
                    frame = decode_sealed_head(head, at)
                except ValueError:
                    at += SEALED_ALIGNMENT
                else:
                    if frame.end <= end:
                        yield frame
                    at = frame.end

    @property
    def first_frame(self) -> int:
        """Offset of the first frame."""
        return SEALED_START if self.is_sealed else PACK_HEADER_BYTES

    def frames_end(self, count: int) -> int:
        """Return the end of the last frame of an intact pack with *count* frames."""
        return self.size - closing_bytes(count, self.is_sealed, self.is_signed)

    @property
    def is_signed(self) -> bool:
        """Return whether the footer says that the pack is signed."""
        if not self.is_sealed:
            return False
        footer = self._read(max(self.size - FOOTER_BYTES, 0), FOOTER_BYTES)
        try:
            return decode_sealed_footer(footer, self.size).is_signed
        except ValueError:
            return False


def outer_problem(opened: OpenObject) -> str | None:
    """Return what is wrong with an encrypted pack as its checksums tell, without a key; or None."""
    name = PackId(opened.path.name)
    crc, at, end = 0, 0, max(opened.size - FOOTER_BYTES, 0)
    window = bytearray(_WINDOW_BYTES)
    try:
        while at < end:
            part = memoryview(window)[: min(len(window), end - at)]
            count = opened.read_into((part,), at)
            if not count:
                return "the file ends early"
            crc = crc32(part[:count], crc)
            at += count
        tail = bytearray(min(FOOTER_BYTES, opened.size))
        opened.read_into((tail,), end)
        footer = decode_sealed_footer(bytes(tail), opened.size)
    except OSError as exc:
        return f"it cannot be read: {exc.strerror}"
    except ValueError as exc:
        return str(exc)
    if footer.pack != name:
        return f"the footer is of pack {footer.pack}"
    return None if crc == footer.content_crc else "its content does not match its checksum"
