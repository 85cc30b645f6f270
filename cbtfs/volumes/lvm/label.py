"""The label of an LVM2 physical volume, and the metadata text that it points to.

Source: LVM2, lib/format_text/layout.h and lib/label/label.h. Sectors have 512 bytes on every disk.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from cbtfs.volumes.lvm.text import MAX_TEXT_BYTES, is_uuid
from cbtfs.volumes.source import Source, read_bytes

_SECTOR: Final = 512
_LABEL_SECTORS: Final = 4
_LABEL: Final = struct.Struct("<8sQII8s")
_LABEL_SIGNATURE: Final = b"LABELONE"
_LABEL_TYPE: Final = b"LVM2 001"
_CRC_FROM: Final = 20
"""The checksum of a label covers the rest of its sector from here."""
_PV: Final = struct.Struct("<32sQ")
_AREA: Final = struct.Struct("<QQ")
_MAX_AREAS: Final = 8
_MAX_TEXTS: Final = 2
"""LVM writes at most two metadata areas."""
_MDA: Final = struct.Struct("<I16sIQQ")
_MDA_SIGNATURE: Final = b" LVM2 x[5A%r0N*>"
_MDA_BYTES: Final = 512
_TEXT: Final = struct.Struct("<QQII")
_IGNORED: Final = 1
"""Flag of a metadata area that has no current text."""
_INITIAL_CRC: Final = 0xF597A6CF


@dataclass(frozen=True, slots=True)
class Label:
    """A physical volume."""

    uuid: str
    """32 characters, without dashes."""
    texts: tuple[str, ...]
    """The intact metadata texts of its volume group."""
    defects: tuple[str, ...] = ()


def lvm_crc(data: bytes) -> int:
    """Return LVM2's checksum: CRC-32 with another initial value and without the final inversion."""
    return zlib.crc32(data, _INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def find_label(source: Source, max_bytes: int = MAX_TEXT_BYTES) -> Label | None:
    """Return the label of the physical volume on *source*, or None.

    *max_bytes*: size of the largest text to read; a larger one is a defect.
    """
    head = read_bytes(source, 0, _LABEL_SECTORS * _SECTOR)
    for number in range(len(head) // _SECTOR):
        sector = head[number * _SECTOR : (number + 1) * _SECTOR]
        signature, own, crc, offset, kind = _LABEL.unpack_from(sector)
        if (
            signature == _LABEL_SIGNATURE
            and kind == _LABEL_TYPE
            and own == number
            and lvm_crc(sector[_CRC_FROM:]) == crc
        ):
            return _label(source, sector, offset, min(max_bytes, MAX_TEXT_BYTES))
    return None


def _label(source: Source, sector: bytes, at: int, max_bytes: int) -> Label | None:
    if at + _PV.size > _SECTOR:
        return None
    uuid, _ = _PV.unpack_from(sector, at)
    if not is_uuid(uuid.decode("latin-1")):
        return None
    _, at = _areas(sector, at + _PV.size)  # areas of data: the text has them, too
    areas, _ = _areas(sector, at)
    texts, defects = [], []
    for offset, _ in areas[:_MAX_TEXTS]:
        try:
            text = _text(source, offset, max_bytes)
        except ValueError as exc:
            defects.append(str(exc))
            continue
        if text is not None:
            texts.append(text)
    return Label(uuid.decode("ascii"), tuple(texts), tuple(defects))


def _areas(sector: bytes, at: int) -> tuple[list[tuple[int, int]], int]:
    """Return the areas of the list at *at*, and where the list ends."""
    areas: list[tuple[int, int]] = []
    while at + _AREA.size <= _SECTOR and len(areas) < _MAX_AREAS:
        offset, length = _AREA.unpack_from(sector, at)
        at += _AREA.size
        if offset == 0:
            break
        areas.append((offset, length))
    return areas, at


def _text(source: Source, start: int, max_bytes: int) -> str | None:
    """Return the text in a metadata area; None if the area is not in use.

    Raises:
        ValueError: the area is damaged.
    """
    header = read_bytes(source, start, _MDA_BYTES)
    if len(header) < _MDA_BYTES:
        raise ValueError("a metadata area lies beyond the end of its physical volume")
    crc, signature, version, own, area = _MDA.unpack_from(header)
    if (signature, version, own) != (_MDA_SIGNATURE, 1, start) or lvm_crc(header[4:]) != crc:
        raise ValueError("the header of a metadata area is damaged")
    offset, size, text_crc, flags = _TEXT.unpack_from(header, _MDA.size)
    if offset == 0 or flags & _IGNORED:
        return None
    if not _MDA_BYTES <= offset < area or not 0 < size <= area - _MDA_BYTES:
        raise ValueError(f"metadata of {size} bytes at {offset} does not fit its area")
    if size > max_bytes:
        raise ValueError(f"metadata of {size} bytes exceeds the limit of {max_bytes}")
    first = min(size, area - offset)
    data = read_bytes(source, start + offset, first)
    if first < size:  # the area is a ring behind its header
        data += read_bytes(source, start + _MDA_BYTES, size - first)
    if len(data) != size or lvm_crc(data) != text_crc:
        raise ValueError("the metadata is damaged")
    return data.rstrip(b"\0").decode("utf-8", "replace")
