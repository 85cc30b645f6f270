"""The fragments of one read, right or wrong."""

import random
import struct
import zlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from tools.vsim.nfc.codes import encoded, skipz
from tools.vsim.nfc.faults import spoiled
from tools.vsim.nfc.wire import FRAGMENT_BODY, IO, PLAIN, SKIPZ, ZLIB
from tools.vsim.rules import NfcRule

BOMB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Read:
    """A request to read."""

    op_id: int
    code: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """One fragment as it goes on the wire."""

    at: int
    length: int
    code: int
    extra: bytes
    offset: int  # of the request
    total: int
    stated: int  # bytes of extra that the record states
    status: int = 0

    def record(self, op_id: int, rule: NfcRule | None = None) -> bytes:
        """Return the record."""
        body = payload(self, self.status)
        return spoiled(rule, IO, op_id, body) + self.extra


def payload(fragment: Fragment, status: int = 0) -> bytes:
    """Return the fixed payload of a fragment."""
    return FRAGMENT_BODY.pack(
        status, 1, fragment.code, fragment.offset, fragment.total, fragment.at, fragment.length,
        fragment.stated, 0,
    )  # fmt: skip


def make(read: Read, at: int, data: memoryview, code: int, offered: str) -> Fragment:
    """Return the right fragment for *data* at offset *at* of the request."""
    used, extra = encoded(data, code, offered.split(":"))
    return Fragment(at, len(data), used, bytes(extra), read.offset, read.length, len(extra))


def spoil(read: Read, data: bytes, rule: NfcRule, offered: str, seed: int) -> list[bytes]:
    """Return the records of a read, wrong in the way of the rule."""
    size = max(512, read.length // 4 // 512 * 512)
    view = memoryview(data)
    whole = [
        make(read, at, view[at : at + size], read.code, offered)
        for at in range(0, read.length, size)
    ]
    changed = _changed(read, whole, view, rule)
    if changed is None:
        changed = whole
        if rule.action != "status":
            random.Random(seed).shuffle(changed)
    header_faults = ("magic", "type", "op-id", "size", "huge", "status")
    spoils = rule if rule.action in header_faults else None
    records = [fragment.record(read.op_id, None) for fragment in changed[:-1]]
    return [*records, changed[-1].record(read.op_id, spoils)] if changed else records


def _changed(
    read: Read, whole: list[Fragment], view: memoryview, rule: NfcRule
) -> list[Fragment] | None:
    first, last = whole[0], whole[-1]
    match rule.action:
        case "overlapping":
            if len(whole) == 1:
                return [first, first]
            return [first, _plain(read, whole[1].at - 512, whole[1].length, view), *whole[2:]]
        case "duplicated":
            return [*whole[:-1], first]
        case "repeated":
            return [*whole, first]
        case "missing":
            return whole[:-1]
        case "reversed":
            return whole[::-1]
        case "past-end":
            extra = bytes(view[last.at :]) + bytes(512)
            return [*whole[:-1], _raw(last, PLAIN, extra, last.length + 512)]
        case "zero-length":
            return [_raw(first, PLAIN, b"", 0), *whole]
        case "wrong-offset":
            return [replace(fragment, offset=fragment.offset + 512) for fragment in whole]
        case "wrong-total":
            return [replace(fragment, total=fragment.total + 512) for fragment in whole]
        case "wrong-code":
            code = ZLIB if read.code != ZLIB else SKIPZ
            return [*whole[:-1], _other(last, code, view[last.at :])]
        case "long":
            return [*whole[:-1], replace(last, extra=last.extra + bytes(8), stated=last.stated + 8)]
        case "short":
            cut = max(0, len(last.extra) - 8)
            return [*whole[:-1], replace(last, extra=last.extra[:cut], stated=cut)]
        case "bomb":
            return [*whole[:-1], _raw(last, ZLIB, _bomb(), last.length)]
        case "garbage":
            return [*whole[:-1], _raw(last, read.code or ZLIB, b"\xff" * 64, last.length)]
        case "skipz-past-end":
            piece = struct.pack("<IIII", last.length, 0, last.length - 8, 16) + bytes(16)
            return [*whole[:-1], _raw(last, SKIPZ, piece, last.length)]
        case "skipz-length":
            piece = struct.pack("<II", last.length + 512, 0)
            return [*whole[:-1], _raw(last, SKIPZ, piece, last.length)]
        case "skipz-descending" | "skipz-overlap":
            half = last.length // 2
            runs = [(half, last.length), (0, half)]
            if rule.action == "skipz-overlap":
                runs = [(0, half + 8), (half, last.length)]
            extra = skipz(last.length, runs, view[last.at :])
            return [*whole[:-1], _raw(last, SKIPZ, extra, last.length)]
    return None


def _raw(fragment: Fragment, code: int, extra: bytes, length: int) -> Fragment:
    return replace(fragment, code=code, extra=extra, stated=len(extra), length=length)


def _plain(read: Read, at: int, length: int, view: memoryview) -> Fragment:
    extra = bytes(view[at : at + length])
    return Fragment(at, len(extra), PLAIN, extra, read.offset, read.length, len(extra))


def _other(fragment: Fragment, code: int, data: memoryview) -> Fragment:
    extra = zlib.compress(data, 1) if code == ZLIB else skipz(len(data), [(0, len(data))], data)
    return _raw(fragment, code, extra, fragment.length)


@cache
def _bomb() -> bytes:
    """Return a zlib stream of 1 GiB of zeros."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    piece = bytes(1 << 20)
    packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (BOMB % 65521) << 16 | 1
    end = packer.flush() + checksum.to_bytes(4, "big")
    return b"\x78\x01" + packed * (BOMB // len(piece)) + end
