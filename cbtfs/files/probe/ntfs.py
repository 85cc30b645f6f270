"""NTFS: the dirty flag of the volume, and the state of $LogFile.

Sources: Linux, fs/ntfs3/ntfs.h; ntfs-3g, libntfs-3g/logfile.c (rules for a clean log). All numbers
are little-endian.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from cbtfs.files.probe.values import NOTHING, Kind, Probe, State
from cbtfs.volumes.source import Source, read_bytes

_LOG_FILE: Final = 2
_VOLUME: Final = 3
_NAME: Final = 0x60
_INFORMATION: Final = 0x70
_DATA: Final = 0x80
_END: Final = 0xFFFFFFFF
_DIRTY: Final = 1
_CLEAN_LOG: Final = 2
_NO_CLIENT: Final = 0xFFFF
_MAX_RECORD_BYTES: Final = 1 << 16


class _Layout(NamedTuple):
    """Sizes in bytes, and the offset of the master file table."""

    cluster: int
    record: int
    table: int


class _Attribute(NamedTuple):
    kind: int
    value: bytes
    """Empty if it is not resident."""
    first_cluster: int
    """First cluster of its content; 0 if it is resident or starts with a hole."""


def probe_ntfs(source: Source) -> Probe | None:
    """Probe a boot sector of NTFS, $Volume and $LogFile, or return None."""
    boot = read_bytes(source, 0, 512)
    if boot[3:11] != b"NTFS    " or len(boot) < 512:
        return None
    layout = _layout(boot)
    if layout is None:
        return NOTHING
    uuid = f"{int.from_bytes(boot[72:80], 'little'):016X}"
    volume = {a.kind: a for a in _attributes(source, layout, _VOLUME)}
    label = volume[_NAME].value.decode("utf-16-le", "replace") if _NAME in volume else ""
    information = volume[_INFORMATION].value if _INFORMATION in volume else b""
    if len(information) < 12:
        state, detail = State.UNKNOWN, "its $Volume is damaged"
    elif int.from_bytes(information[10:12], "little") & _DIRTY:
        state, detail = State.UNCLEAN, "its dirty flag is set"
    else:
        state, detail = _log_state(source, layout)
    return Probe(Kind.NTFS, state, uuid, label, frozenset(), detail)


def _layout(boot: bytes) -> _Layout | None:
    sector, per_cluster = struct.unpack_from("<HB", boot, 11)
    (table,) = struct.unpack_from("<Q", boot, 48)
    (record,) = struct.unpack_from("<b", boot, 64)
    if sector not in (256, 512, 1024, 2048, 4096) or not per_cluster:
        return None
    if per_cluster > 0x80 and per_cluster < 0xE1:
        return None
    cluster = sector << (256 - per_cluster) if per_cluster > 0x80 else sector * per_cluster
    record_bytes = cluster * record if record > 0 else 1 << -record
    if not 256 <= record_bytes <= _MAX_RECORD_BYTES or cluster > 2 << 20:
        return None
    return _Layout(cluster, record_bytes, table * cluster)


def _fixed(data: bytes) -> bytes | None:
    """Return a record or page with the last two bytes of its sectors in place, or None."""
    if len(data) < 48:
        return None
    at, count = struct.unpack_from("<HH", data, 4)
    if count < 2 or at + 2 * count > len(data) or (count - 1) * 512 > len(data):
        return None
    fixed, number = bytearray(data), data[at : at + 2]
    for sector in range(1, count):
        end = sector * 512
        if data[end - 2 : end] != number:
            return None
        fixed[end - 2 : end] = data[at + 2 * sector : at + 2 * sector + 2]
    return bytes(fixed)


def _attributes(source: Source, layout: _Layout, number: int) -> Iterator[_Attribute]:
    """Yield the attributes of one of the first records, which are contiguous."""
    data = read_bytes(source, layout.table + number * layout.record, layout.record)
    record = _fixed(data) if data[:4] == b"FILE" else None
    if record is None:
        return
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 24 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _END or length < 24 or at + length > len(record):
            return
        attribute = record[at : at + length]
        if attribute[8]:
            yield _Attribute(kind, b"", _first_cluster(attribute))
        else:
            size, start = struct.unpack_from("<IH", attribute, 16)
            yield _Attribute(kind, attribute[start : start + size], 0)
        at += length


def _first_cluster(attribute: bytes) -> int:
    """Return the first cluster of an attribute that is not resident; 0 if it has none."""
    if len(attribute) < 34:
        return 0
    (at,) = struct.unpack_from("<H", attribute, 32)
    runs = attribute[at : at + 17]
    if not runs:
        return 0
    length_bytes, offset_bytes = runs[0] & 15, runs[0] >> 4
    start = 1 + length_bytes
    return max(int.from_bytes(runs[start : start + offset_bytes], "little", signed=True), 0)


def _log_state(source: Source, layout: _Layout) -> tuple[State, str]:
    """Return the state of $LogFile by its restart pages; an empty log is clean."""
    data = [a for a in _attributes(source, layout, _LOG_FILE) if a.kind == _DATA]
    if not data or not data[0].first_cluster:
        return State.UNKNOWN, "its $LogFile is damaged"
    start = data[0].first_cluster * layout.cluster
    first = read_bytes(source, start, 4096)
    if first.count(b"\xff") == len(first):
        return State.CLEAN, ""
    pages = [_restart(page) for page in (first, read_bytes(source, start + 4096, 4096))]
    areas = [page for page in pages if page is not None]
    if not areas:
        return State.UNKNOWN, "its $LogFile is damaged"
    _, client, flags = max(areas)
    if client != _NO_CLIENT and not flags & _CLEAN_LOG:
        return State.UNCLEAN, "its log has changes that are not in place"
    return State.CLEAN, ""


def _restart(page: bytes) -> tuple[int, int, int] | None:
    """Return log number, first client in use and flags of a restart page, or None."""
    fixed = _fixed(page) if page[:4] in (b"RSTR", b"CHKD") else None
    if fixed is None:
        return None
    (at,) = struct.unpack_from("<H", fixed, 24)
    if at + 16 > len(fixed):
        return None
    number, _, _, client, flags = struct.unpack_from("<QHHHH", fixed, at)
    return number, client, flags
