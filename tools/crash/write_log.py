"""Campaign: power cuts of the image of an overlay, from the log of all its writes.

QEMU's driver `blklogwrites` records the writes and flushes that an image gets, in the format of
dm-log-writes (Linux, Documentation/admin-guide/device-mapper/log-writes.rst). A power cut is a
prefix of the log: everything before the last flush in it is on the disk, and any of the sectors
that were written since may be.
"""

import json
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.overlay.exports import fuse_exports
from cbtfs.qemu.composed import ComposedDisk, blockdevs
from cbtfs.qemu.daemon import storage_daemon
from cbtfs.qemu.images import create_image
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

_SIZE: Final = 8 << 20
_BLOCK: Final = 4096
_SECTOR: Final = 512
_WRITES_PER_CUT: Final = 12
_MAGIC: Final = 0x6A736677736872
_ENTRY: Final = struct.Struct("<QQQQ")
"""Sector, number of sectors, flags, bytes of data."""
_FLUSH, _DISCARD = 1, 4


@dataclass(frozen=True, slots=True)
class _Write:
    """A write that was acknowledged by a flush when the log had *log_bytes*."""

    offset: int
    data: bytes
    log_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    start: int
    data: bytes
    is_flush: bool
    end: int
    """Position in the log after the entry."""


def write_log(folder: Path, seed: int, count: int) -> CampaignResult:
    """Cut the power *count* times at random moments; each image has every flushed write."""
    rnd = random.Random(seed)
    base, image, log = folder / "base.raw", folder / "root.qcow2", folder / "log"
    base.write_bytes(rnd.randbytes(_SIZE))
    create_image(image, _SIZE)
    before = image.read_bytes()
    log.touch()
    writes = _record(folder, rnd, count * _WRITES_PER_CUT)
    entries = list(_entries(log))
    kept = 0
    for number in sorted(rnd.randrange(1, len(entries)) for _ in range(count)):
        kept += _cut(image, before, entries[:number], rnd)
        _verify(image, base, writes, entries[number - 1].end)
    flushes = sum(entry.is_flush for entry in entries)
    note = f"{len(writes)} flushed writes, {flushes} flushes; {kept} unflushed sectors were kept"
    return CampaignResult("write-log", count, "power cut in the log of an image", 1, 0, 0, note)


def _record(folder: Path, rnd: random.Random, count: int) -> list[_Write]:
    """Write *count* blocks to the disk, each with a flush, while its image is logged."""
    runtime, raw = folder / "run", folder / "root.raw"
    runtime.mkdir()
    raw.touch()
    options = blockdevs([ComposedDisk(folder / "root.qcow2", folder / "base.raw")])
    logging = {"driver": "file", "filename": str(folder / "log"), "node-name": "log"}
    logged = {"driver": "blklogwrites", "node-name": "logged", "file": "image0", "log": "log"}
    at = len(options) - 2  # Before the node of the disk, which is the last one.
    disk = json.loads(options[-1]) | {"file": "logged"}
    options[at:] = [
        word for node in (logging, logged, disk) for word in ("--blockdev", json.dumps(node))
    ]
    options += fuse_exports([raw], allows_others=False)
    writes = []
    with storage_daemon(options, runtime):
        fd = os.open(raw, os.O_RDWR)
        try:
            for _ in range(count):
                offset = rnd.randrange(_SIZE // _BLOCK) * _BLOCK
                data = rnd.randbytes(_BLOCK) if rnd.random() < 0.8 else bytes(_BLOCK)
                os.pwrite(fd, data, offset)
                os.fsync(fd)
                writes.append(_Write(offset, data, (folder / "log").stat().st_size))
        finally:
            os.close(fd)
    return writes


def _entries(log: Path) -> Iterator[_Entry]:
    """Yield the entries of a log."""
    content = log.read_bytes()
    magic, _, count, sector = struct.unpack_from("<QQQI", content)
    if magic != _MAGIC:
        raise Violation("the log of writes has another format")
    at = sector
    for _ in range(count):
        start, sectors, flags, _ = _ENTRY.unpack_from(content, at)
        at += sector
        length = sectors * sector
        data = bytes(length)
        if not flags & _DISCARD:
            data = content[at : at + length]
            at += length
        yield _Entry(start * sector, data, bool(flags & _FLUSH), at)


def _cut(image: Path, before: bytes, entries: list[_Entry], rnd: random.Random) -> int:
    """Write the image as a power cut after *entries* leaves it; return unflushed sectors kept."""
    flushed = max((n for n, entry in enumerate(entries) if entry.is_flush), default=-1) + 1
    content, kept = bytearray(before), 0
    chance = rnd.choice((0.0, 0.5, 1.0))
    for number, entry in enumerate(entries):
        end = entry.start + len(entry.data)
        content.extend(bytes(max(0, end - len(content))))
        if number < flushed:
            content[entry.start : end] = entry.data
            continue
        for at in range(0, len(entry.data), _SECTOR):
            if rnd.random() < chance:
                start = entry.start + at
                content[start : start + _SECTOR] = entry.data[at : at + _SECTOR]
                kept += 1
    image.write_bytes(content)
    return kept


def _verify(image: Path, base: Path, writes: list[_Write], log_bytes: int) -> None:
    """Raise Violation unless the disk has every write that the log before *log_bytes* flushed."""
    check = subprocess.run(["qemu-img", "check", "-q", image], check=False, capture_output=True)
    if check.returncode not in (0, 3):  # 3: leaked clusters only
        raise Violation(f"the image is corrupt: {check.stderr.decode()[:500]}")
    found = _read(image, base)
    expected = bytearray(base.read_bytes())
    acknowledged = [write for write in writes if write.log_bytes <= log_bytes]
    for write in acknowledged:
        expected[write.offset : write.offset + _BLOCK] = write.data
    for write in writes[len(acknowledged) :][:1]:  # in flight: each sector is the old or new one
        for at in range(write.offset, write.offset + _BLOCK, _SECTOR):
            new = write.data[at - write.offset : at - write.offset + _SECTOR]
            if found[at : at + _SECTOR] == new:
                expected[at : at + _SECTOR] = new
    if found != expected:
        wrong = next(n for n in range(_SIZE) if found[n : n + 1] != expected[n : n + 1])
        raise Violation(f"byte {wrong} is wrong after a power cut at {log_bytes} of the log")


def _read(image: Path, base: Path) -> bytes:
    disk = {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(image)},
        "backing": {"driver": "raw", "file": {"driver": "file", "filename": str(base)}},
    }
    output = image.with_suffix(".read")
    source = f"json:{json.dumps(disk)}"
    subprocess.run(["qemu-img", "convert", "-O", "raw", source, output], check=True)
    return output.read_bytes()
