"""The bytes of a pack: header, frames, trailer, footer (docs/format.md, "Packs")."""

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from cbtfs.core.ids import DIGEST_BYTES, Digest, PackId

PIECE_BYTES: Final = 4096
"""Size of a piece: a raw chunk has a CRC-32 for each. One page, the smallest read."""

PACK_MAGIC: Final = b"CBTFSPAK"
END_MAGIC: Final = b"CBTFSEND"
FRAME_MAGIC: Final = b"CBTF"
PACK_VERSION: Final = 1
MAX_PLAIN_BYTES: Final = 1 << 22
"""Maximum size of a decoded object; a header with a larger size is invalid."""
MAX_PACK_BYTES: Final = (1 << 32) - 1
"""A pack has fewer than 2^32 bytes (docs/format.md)."""
MAX_TRAILER_BYTES: Final = 256 << 20
"""Maximum size of a trailer to load; with a larger one the pack is read frame by frame. A pack of
64 MiB with frames of minimum size has a trailer of 36 MiB."""

_PACK_HEADER = struct.Struct("<8sHHI16s")
_FRAME_HEADER = struct.Struct("<4sIHBBBBHIII24s32s8s")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<QIBBBBII32s")
_FOOTER = struct.Struct("<8sHHIQI16s16s")

SEALED_FLAG: Final = 1
"""Flag in header and footer of an encrypted pack."""
SIGNED_FLAG: Final = 2
"""Flag in header and footer of an encrypted pack that ends with a signature."""
SIGNATURE_BYTES: Final = 96
"""Size of a signature: public key of the signer and Ed25519 signature (RFC 8032)."""
SIGNER_BYTES: Final = 8
"""First bytes of the public key of a signer: enough to tell capture keys apart."""
TAG_BYTES: Final = 16
SEALED_KEY_BYTES: Final = 80
"""Size of the key of chunks, encrypted for the repository's public key (RFC 9180)."""
SEALED_ALIGNMENT: Final = 64
"""Frames of an encrypted pack begin at multiples of this, so that a scan can find them."""

PACK_HEADER_BYTES: Final = _PACK_HEADER.size
SEALED_START: Final = 128
"""Offset of the first frame of an encrypted pack."""
FRAME_HEADER_BYTES: Final = _FRAME_HEADER.size + _CRC.size
ENTRY_BYTES: Final = _ENTRY.size
FOOTER_BYTES: Final = _FOOTER.size + _CRC.size
_SEALED_HEADER_BYTES: Final = FRAME_HEADER_BYTES + TAG_BYTES


class Kind(IntEnum):
    CHUNK = 1
    NODE = 2


class Codec(IntEnum):
    STORED = 0
    ZSTD = 1


class Frame(NamedTuple):
    """Location and identity of one object in a pack. Lengths in bytes."""

    offset: int
    stored: int
    """Length of the payload without its table of CRCs."""
    plain: int
    kind: Kind
    level: int
    codec: Codec
    digest: Digest
    is_sealed: bool = False
    """Whether the frame is in an encrypted pack."""

    @property
    def table_bytes(self) -> int:
        """Length of the table between header and payload.

        It has the CRCs of the pieces of a raw chunk. A sealed frame has tags instead: one for each
        piece of a raw chunk, else a single one.
        """
        if self.kind is Kind.CHUNK and self.codec is Codec.STORED:
            entry = TAG_BYTES if self.is_sealed else _CRC.size
            return max(-(-self.plain // PIECE_BYTES), int(self.is_sealed)) * entry
        return TAG_BYTES if self.is_sealed else 0

    @property
    def payload_offset(self) -> int:
        header = _SEALED_HEADER_BYTES if self.is_sealed else FRAME_HEADER_BYTES
        return self.offset + header + self.table_bytes

    @property
    def end(self) -> int:
        end = self.payload_offset + self.stored
        return end + -end % SEALED_ALIGNMENT if self.is_sealed else end


def first_frame(is_sealed: bool) -> int:
    """Return the offset of the first frame of a pack."""
    return SEALED_START if is_sealed else PACK_HEADER_BYTES


def closing_bytes(frames: int, is_sealed: bool, is_signed: bool = False) -> int:
    """Return the size of everything after the last frame of a pack with *frames* frames."""
    added = TAG_BYTES + SEALED_KEY_BYTES if is_sealed else 0
    added += SIGNATURE_BYTES if is_signed else 0
    return frames * ENTRY_BYTES + added + FOOTER_BYTES


def _head(frame: Frame, table_bytes: int) -> bytes:
    """Return the header of a frame without its checksum."""
    length = FRAME_HEADER_BYTES + table_bytes + frame.stored
    return _FRAME_HEADER.pack(
        FRAME_MAGIC,
        frame.end - frame.offset if frame.is_sealed else length,
        0,
        frame.kind,
        frame.level,
        frame.codec,
        0,
        0,
        frame.stored,
        frame.plain,
        table_bytes,
        bytes(24),
        frame.digest,
        bytes(8),
    )


def encode_frame_header(frame: Frame, table: bytes = b"") -> bytes:
    """Return header and table of CRCs, which the payload follows. They omit the offset."""
    head = _head(frame, len(table))
    return head + _CRC.pack(zlib.crc32(table, zlib.crc32(head))) + table


def encode_sealed_head(frame: Frame) -> bytes:
    """Return the plain header of a sealed frame; its checksum covers the header alone."""
    head = _head(frame, frame.table_bytes)
    return head + _CRC.pack(zlib.crc32(head))


def decode_sealed_head(head: bytes, offset: int) -> Frame:
    """Return the frame at *offset* that a decrypted header describes; ValueError if invalid."""
    frame = _described(head, offset, is_sealed=True)
    if encode_sealed_head(frame) != head:
        raise ValueError("inconsistent frame header")
    return frame


def _described(head: bytes, offset: int, *, is_sealed: bool) -> Frame:
    fields = _FRAME_HEADER.unpack_from(head)
    _, _, _, kind, level, codec, _, _, stored, plain, *_ = fields
    if max(plain, stored) > MAX_PLAIN_BYTES:
        raise ValueError("frame header uses an unknown feature")
    digest = Digest(fields[12])
    return Frame(offset, stored, plain, Kind(kind), level, Codec(codec), digest, is_sealed)


def table_of(frame: Frame, data: bytes | bytearray) -> bytes | None:
    """Return the table of CRCs in *data*; None unless *data* is header and table of *frame*."""
    table = bytes(data[FRAME_HEADER_BYTES:])
    return table if data == encode_frame_header(frame, table) else None


def decode_frame_header(data: bytes | memoryview, offset: int) -> tuple[Frame, bytes]:
    """Decode the frame header and the table of CRCs at the start of *data*.

    *offset* is that of the header in its pack. ValueError if the header is invalid.
    """
    if len(data) < FRAME_HEADER_BYTES:
        raise ValueError("truncated frame header")
    head = bytes(data[: _FRAME_HEADER.size])
    fields = _FRAME_HEADER.unpack(head)
    magic, length, flags, kind, level, codec, slot, _, stored, plain, table_bytes, *_ = fields
    if magic != FRAME_MAGIC:
        raise ValueError("not a frame")
    table = bytes(data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + table_bytes])
    (crc,) = _CRC.unpack_from(data, _FRAME_HEADER.size)
    if len(table) != table_bytes or crc != zlib.crc32(table, zlib.crc32(head)):
        raise ValueError("frame header fails its checksum")
    if flags or slot or max(plain, stored) > MAX_PLAIN_BYTES:
        raise ValueError("frame header uses an unknown feature")
    frame = Frame(offset, stored, plain, Kind(kind), level, Codec(codec), Digest(fields[12]))
    if frame.table_bytes != table_bytes or frame.end - offset != length:
        raise ValueError("inconsistent frame header")
    return frame, table


def encode_pack_header(pack: PackId) -> bytes:
    return _PACK_HEADER.pack(PACK_MAGIC, PACK_VERSION, 0, 0, bytes.fromhex(pack))


def decode_pack_header(data: bytes) -> PackId:
    """Return the id in a pack header; ValueError if the header is invalid."""
    if len(data) < PACK_HEADER_BYTES:
        raise ValueError("truncated pack header")
    magic, version, flags, reserved, pack = _PACK_HEADER.unpack_from(data)
    if magic != PACK_MAGIC or version != PACK_VERSION or flags or reserved:
        raise ValueError("not a pack of this version")
    return PackId(pack.hex())


def _flags(is_signed: bool) -> int:
    return SEALED_FLAG | SIGNED_FLAG if is_signed else SEALED_FLAG


class SealedHeader(NamedTuple):
    """The header of an encrypted pack."""

    pack: PackId
    epoch: int
    key: bytes
    """Key of chunks, encrypted."""
    is_signed: bool


def encode_sealed_pack_header(
    pack: PackId, epoch: int, key: bytes, *, is_signed: bool = False
) -> bytes:
    """Return the header of an encrypted pack, up to its first frame; *key* is encrypted."""
    number, flags = bytes.fromhex(pack), _flags(is_signed)
    header = _PACK_HEADER.pack(PACK_MAGIC, PACK_VERSION, flags, epoch, number)
    return (header + key).ljust(SEALED_START, b"\0")


def decode_sealed_pack_header(data: bytes) -> SealedHeader:
    """Return the header of an encrypted pack; ValueError if it is invalid."""
    if len(data) < SEALED_START:
        raise ValueError("truncated pack header")
    magic, version, flags, epoch, pack = _PACK_HEADER.unpack_from(data)
    is_signed = flags == _flags(True)
    if magic != PACK_MAGIC or version != PACK_VERSION or flags != _flags(is_signed):
        raise ValueError("not an encrypted pack of this version")
    key = data[PACK_HEADER_BYTES : PACK_HEADER_BYTES + SEALED_KEY_BYTES]
    if any(data[PACK_HEADER_BYTES + SEALED_KEY_BYTES : SEALED_START]):
        raise ValueError("a reserved field of the pack header is not empty")
    return SealedHeader(PackId(pack.hex()), epoch, key, is_signed)


def encode_index(frames: Sequence[Frame]) -> bytes:
    """Return the entries of a trailer."""
    return b"".join(
        _ENTRY.pack(
            f.offset, f.end - f.offset, f.kind, f.level, f.codec, 0, f.stored, f.plain, f.digest
        )
        for f in frames
    )


def encode_trailer(frames: Sequence[Frame], offset: int, pack: PackId) -> bytes:
    """Return trailer and footer of a pack whose frames end at *offset*."""
    index = encode_index(frames)
    foot = _FOOTER.pack(
        END_MAGIC,
        PACK_VERSION,
        0,
        len(frames),
        offset,
        zlib.crc32(index),
        bytes.fromhex(pack),
        bytes(16),
    )
    return index + foot + _CRC.pack(zlib.crc32(foot))


_SEALED_FOOTER = struct.Struct("<II8s")
"""The reserved field of a footer in an encrypted pack: epoch, CRC-32 of all bytes before it."""


class SealedFooter(NamedTuple):
    """The footer of an encrypted pack."""

    frames: int
    trailer_offset: int
    trailer_crc: int
    pack: PackId
    epoch: int
    content_crc: int
    """CRC-32 of all bytes before the footer, which can be verified without a key."""
    is_signed: bool


def encode_sealed_footer(footer: SealedFooter) -> bytes:
    """Return the last FOOTER_BYTES of an encrypted pack."""
    more = _SEALED_FOOTER.pack(footer.epoch, footer.content_crc, bytes(8))
    foot = _FOOTER.pack(
        END_MAGIC,
        PACK_VERSION,
        _flags(footer.is_signed),
        footer.frames,
        footer.trailer_offset,
        footer.trailer_crc,
        bytes.fromhex(footer.pack),
        more,
    )
    return foot + _CRC.pack(zlib.crc32(foot))


def decode_sealed_footer(data: bytes, size: int) -> SealedFooter:
    """Decode the footer of an encrypted pack of *size* bytes; ValueError if it is invalid."""
    if len(data) != FOOTER_BYTES:
        raise ValueError("truncated pack footer")
    magic, version, flags, count, offset, crc, pack, more = _FOOTER.unpack_from(data)
    (own,) = _CRC.unpack_from(data, _FOOTER.size)
    is_signed = flags == _flags(True)
    if (magic, version, flags) != (END_MAGIC, PACK_VERSION, _flags(is_signed)):
        raise ValueError("not the footer of an encrypted pack")
    if own != zlib.crc32(data[: _FOOTER.size]):
        raise ValueError("pack footer fails its checksum")
    if offset + closing_bytes(count, True, is_signed) != size:
        raise ValueError("pack footer does not match the size of the pack")
    epoch, content, _ = _SEALED_FOOTER.unpack(more)
    return SealedFooter(count, offset, crc, PackId(pack.hex()), epoch, content, is_signed)


class Footer(NamedTuple):
    frames: int
    trailer_offset: int
    trailer_crc: int
    pack: PackId


def decode_footer(data: bytes, size: int) -> Footer:
    """Decode the last FOOTER_BYTES of a pack of *size* bytes; ValueError if they are invalid."""
    if len(data) != FOOTER_BYTES:
        raise ValueError("truncated pack footer")
    magic, version, _, count, offset, crc, pack, _ = _FOOTER.unpack_from(data)
    (own,) = _CRC.unpack_from(data, _FOOTER.size)
    if magic != END_MAGIC or version != PACK_VERSION or own != zlib.crc32(data[: _FOOTER.size]):
        raise ValueError("pack footer fails its checksum")
    if offset + count * ENTRY_BYTES + FOOTER_BYTES != size:
        raise ValueError("pack footer does not match the size of the pack")
    return Footer(count, offset, crc, PackId(pack.hex()))


def decode_trailer(data: bytes, footer: Footer) -> list[Frame]:
    """Return the frames that a trailer lists; ValueError if it is invalid."""
    if len(data) != footer.frames * ENTRY_BYTES or zlib.crc32(data) != footer.trailer_crc:
        raise ValueError("pack trailer fails its checksum")
    return decode_index(data, footer.trailer_offset)


def decode_index(data: bytes, end: int, *, is_sealed: bool = False) -> list[Frame]:
    """Return the frames in the entries of a trailer; ValueError if one reaches beyond *end*."""
    frames = []
    for offset, length, kind, level, codec, _, stored, plain, digest in _ENTRY.iter_unpack(data):
        frame = Frame(
            offset, stored, plain, Kind(kind), level, Codec(codec), Digest(digest), is_sealed
        )
        if frame.end - offset != length or frame.end > end:
            raise ValueError("inconsistent pack trailer")
        if max(plain, stored) > MAX_PLAIN_BYTES or len(digest) != DIGEST_BYTES:
            raise ValueError("pack trailer uses an unknown feature")
        frames.append(frame)
    return frames
