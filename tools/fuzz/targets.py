"""Fuzz targets: each one accepts any bytes and raises no unexpected error."""

import contextlib
import hashlib
import os
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cbtfs.core import frame as frames
from cbtfs.core.frame import Codec, Frame, Kind
from cbtfs.core.ids import NULL_DIGEST, DiskId, PackId, PointId
from cbtfs.core.manifest import (
    Counts,
    Manifest,
    PointState,
    Vm,
    decode_manifest,
    decode_state,
    encode_manifest,
    encode_state,
)
from cbtfs.core.moment import parse_moment
from cbtfs.core.names import encode_name, printable
from cbtfs.core.overlay import Overlay, OverlayDisk, decode_overlay, encode_overlay, joined
from cbtfs.core.pin import Pin, PinId, decode_pin, encode_pin
from cbtfs.core.progress import (
    Checkpoint,
    DiskProgress,
    HeldDisk,
    HeldSnapshot,
    RunProgress,
    decode_progress,
    encode_progress,
)
from cbtfs.core.settings import Settings, decode_settings, encode_settings
from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.mount.files import encode_vm_json, files_of
from cbtfs.native import Chunks, Leaf, PackFile, crc_table
from cbtfs.source.listed import load_change_list
from cbtfs.source.nbd_connection import statuses_of
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.datastore import flat_file
from cbtfs.source.transport.vddk import frame as wire
from cbtfs.source.transport.vddk.process import failure_in
from cbtfs.source.transport.vddk.reader import InvalidBlocks, checked_blocks
from cbtfs.source.vsphere.inventory.settings import kept_vmx
from cbtfs.store import codec
from cbtfs.store.backend.local import LocalObject
from cbtfs.store.catalog import records
from cbtfs.store.digest import chunk_digest
from cbtfs.store.holder import parse_holder
from cbtfs.store.pack import Pack
from cbtfs.store.runs import RunFacts, decode_facts, encode_facts
from tools.fuzz import files, jbd2, nfc, probe, shared, streamed, volumes

Target = Callable[[bytes], None]
_ID: Final = "ab" * 16
_PLAIN: Final = b"content " * 512
_SEAL: Final = b',"sha256":"'
_DISK: Final = TransportDisk(
    *("disk", "vm-1", "snapshot-1", 2000, 4096, "[ds] vm/disk.vmdk", "VMFS", "DC0"),
    is_flat=True,
    is_alone=True,
)


@contextmanager
def _refusing() -> Iterator[None]:
    """Suppress the errors by which a decoder refuses its input: ValueError and CbtfsError."""
    with contextlib.suppress(ValueError, CbtfsError):
        yield


def _sealed(body: bytes) -> bytes:
    """Return *body* with a valid seal, so that the decoder accepts it."""
    head = body.rstrip().removesuffix(b"}")
    if _SEAL in head:
        head = head.partition(_SEAL)[0]
    body = head + b"}"
    return head + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def _manifest(data: bytes) -> None:
    for document in (data, _sealed(data)):
        with _refusing():
            manifest = decode_manifest(document)
            encode_manifest(manifest)
            files_of(manifest, 16)
            encode_vm_json(manifest, PointState(manifest.point), is_damaged=False)


def _state(data: bytes) -> None:
    for document in (data, _sealed(data)):
        with _refusing():
            encode_state(decode_state(document, PointId(_ID)))


def _pin(data: bytes) -> None:
    for document in (data, _sealed(data)):
        with _refusing():
            encode_pin(decode_pin(document))
        with _refusing():
            encode_overlay(decode_overlay(document))


def _shared(data: bytes) -> None:
    for document in (data, _sealed(data)):
        shared.decode_all(document)


def _progress(data: bytes) -> None:
    for document in (data, _sealed(data)):
        with _refusing():
            encode_progress(decode_progress(document))


def _settings(data: bytes) -> None:
    for document in (data, _sealed(data)):
        with _refusing():
            decode_settings(document)


def _frame_header(data: bytes) -> None:
    head = data[: frames.FRAME_HEADER_BYTES - 4].ljust(frames.FRAME_HEADER_BYTES - 4, b"\0")
    table = data[frames.FRAME_HEADER_BYTES :]
    repaired = head + zlib.crc32(table, zlib.crc32(head)).to_bytes(4, "little") + table
    for header in (data, repaired):
        with _refusing():
            frame, table = frames.decode_frame_header(header, 0)
            assert frame.end >= frame.payload_offset


def _footer(data: bytes) -> None:
    body = data[: frames.FOOTER_BYTES - 4].ljust(frames.FOOTER_BYTES - 4, b"\0")
    for footer in (data, body + zlib.crc32(body).to_bytes(4, "little")):
        with _refusing():
            frames.decode_footer(footer, len(data))
    with _refusing():
        frames.decode_pack_header(data)


def _trailer(data: bytes) -> None:
    count = len(data) // frames.ENTRY_BYTES
    whole = data[: count * frames.ENTRY_BYTES]
    for crc in (0, zlib.crc32(whole)):
        with _refusing():
            frames.decode_trailer(whole, frames.Footer(count, 64, crc, PackId(_ID)))


def _payload(data: bytes) -> None:
    """Decode a payload with a header of 4 KiB: a decompression bomb must not exceed it."""
    digest = chunk_digest(_PLAIN)
    for kind in (Codec.STORED, Codec.ZSTD):
        with _refusing():
            frame = Frame(64, len(data), len(_PLAIN), Kind.CHUNK, 0, kind, digest)
            assert bytes(codec.decode(frame, data)) == _PLAIN


_FOLDER: Final = tempfile.TemporaryDirectory(prefix="cbtfs-fuzz-")


def _pack(data: bytes) -> None:
    """Read a whole pack: header, frames, trailer and footer; then scan it frame by frame."""
    path = Path(_FOLDER.name, "pack")
    path.write_bytes(data)
    with _refusing():
        pack = Pack(LocalObject(path))
        with _refusing():
            for frame in pack.trailer():
                with _refusing():
                    pack.load(frame)
        for frame in pack.scan():
            with _refusing():
                pack.load(frame)


def _chunk(data: bytes) -> None:
    """Read a chunk by native code: any frame, and any payload with a valid header."""
    digest = chunk_digest(_PLAIN)
    for kind in (Codec.STORED, Codec.ZSTD):
        table = crc_table(data.ljust(len(_PLAIN), b"\0")[: len(_PLAIN)])
        frame = Frame(0, len(data), len(_PLAIN), Kind.CHUNK, 0, kind, digest)
        header = frames.encode_frame_header(frame, table if kind is Codec.STORED else b"")
        for content in (data, header + data):
            assert _PLAIN.startswith(_read_chunk(frame, content))


def _read_chunk(frame: Frame, content: bytes) -> bytes:
    path = Path(_FOLDER.name, "chunk")
    path.write_bytes(content)
    leaf = Leaf((records.encode_location(records.Location(1, frame)), *[None] * 63))
    leaf.attach(1, PackFile(os.open(path, os.O_RDONLY)))
    target = bytearray(frame.plain)
    count = Chunks(0, chunk_digest, True).fill(leaf, frame.plain, 0, target)
    return bytes(target[:count])


def _catalog(data: bytes) -> None:
    decoders: tuple[Callable[[bytes], object], ...] = (
        records.decode_location,
        records.decode_children,
        records.decode_ids,
        records.decode_pack,
        records.decode_point,
    )
    for decode in decoders:
        with _refusing():
            decode(data)


def _changes(data: bytes) -> None:
    path = Path(_FOLDER.name, "changes")
    path.write_bytes(data)
    with _refusing():
        load_change_list(path)


def _holder(data: bytes) -> None:
    parse_holder(data)


def _run(data: bytes) -> None:
    """Decode the record of a run in locks/runs/."""
    with _refusing():
        encode_facts(decode_facts(data))


def _vddk(data: bytes) -> None:
    """Decode messages of a process with the VDDK: any bytes, then frames with any payload."""
    _receive(data)
    for kind in (wire.ANSWER, wire.ERROR):
        _receive(wire.header(kind, 1, len(data)) + data)


def _receive(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.suppress(wire.FrameError):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        while (message := wire.receive_frame(ours)) is not None:
            with contextlib.suppress(InvalidBlocks):
                end = 0
                for extent in checked_blocks(message.payload, 0, 1 << 20):
                    assert end <= extent.start < extent.end <= 512 << 20
                    end = extent.end
            with contextlib.suppress(wire.FrameError):
                failure_in(message, ("secret",))


def _vmx(data: bytes) -> None:
    """Filter the configuration file of a VM: no guestinfo setting remains."""
    for line in kept_vmx(data, {"scsi0:0": "disk.vmdk"}).splitlines():
        assert not line.lstrip().lower().startswith(b"guestinfo.")


def _descriptor(data: bytes) -> None:
    """Parse the descriptor of a disk on a datastore."""
    with contextlib.suppress(SourceUnavailable):
        assert "/" not in flat_file(data.decode("utf-8", "replace"), _DISK)


def _words(data: bytes) -> None:
    """Encode names and parse moments."""
    for errors in ("surrogatepass", "surrogateescape"):
        with _refusing():
            text = data.decode("utf-8", errors)
            assert printable(text).isprintable()
            assert "/" not in encode_name(text)
            parse_moment(text)


def _nbd(data: bytes) -> None:
    """Decode the extent list of an NBD server: arbitrary lengths and flags."""
    numbers = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data) - 3, 4)]
    pairs = list(zip(numbers[1::2], numbers[2::2], strict=False))
    length = numbers[0] % (1 << 30) + 1 if numbers else 1
    statuses = statuses_of(pairs, 512, length)
    at = 512
    for extent, _ in statuses:
        assert extent.start == at
        at = extent.end
    assert at <= 512 + length


def _seeds() -> dict[str, list[bytes]]:
    """Return valid inputs by target; without them a fuzzer rarely passes the first check."""
    manifest = Manifest(
        point=PointId(_ID),
        vm=Vm("cd" * 16, "vm", "vm"),  # type: ignore[arg-type]
        order=1,
        time="2026-01-01T00:00:00Z",
        name="2026-01-01T00-00-00Z",
        committed="2026-01-01T00:00:00Z",
        run="ef" * 16,
        program="fuzz",
        kind="full",
        reason="first",
        disks=(),
    )
    pin = Pin(PinId(_ID), PointId(_ID), "lab", "host1", "/srv/lab", "2026-01-01T00:00:00Z")
    disk = OverlayDisk(DiskId(_ID), "root", 4096, NULL_DIGEST, "root")
    overlay = Overlay(pin.id, "lab", _ID, pin.point, "vm", pin.created, 1 << 30, (disk,))
    joint = replace(overlay, disks=joined([disk, disk]))
    digest = chunk_digest(_PLAIN)
    frame = Frame(32, len(_PLAIN), len(_PLAIN), Kind.CHUNK, 0, Codec.STORED, digest)
    encoded = codec.Encoder().encode(Kind.CHUNK, 0, digest, _PLAIN)
    header = frames.encode_frame_header(frame, crc_table(_PLAIN))
    body = frames.encode_pack_header(PackId(_ID)) + header + _PLAIN
    trailer = frames.encode_trailer([frame], len(body), PackId(_ID))
    return {
        "nfc": nfc.nfc_seeds(),
        "nfc ticket": nfc.ticket_seeds(),
        "streamed vmdk": streamed.streamed_seeds(),
        "manifest": [encode_manifest(manifest)],
        "state": [encode_state(PointState(PointId(_ID)))],
        "pin": [encode_pin(pin), encode_overlay(overlay), encode_overlay(joint)],
        "shared": shared.shared_seeds(),
        "progress": [encode_progress(_a_progress())],
        "settings": [encode_settings(Settings(_ID, "2026-01-01T00:00:00Z", 65536, 1))],
        "frame-header": [header],
        "footer": [trailer[-frames.FOOTER_BYTES :]],
        "trailer": [trailer[: -frames.FOOTER_BYTES]],
        "payload": [bytes(encoded.payload), _PLAIN],
        "pack": [body + trailer],
        "chunk": [header + _PLAIN, _PLAIN, bytes(encoded.payload)],
        "catalog": [
            records.encode_children([*range(1, 33), *[0] * 32]),  # type: ignore[list-item]
            records.encode_location(records.Location(1, frame)),
        ],
        "changes": [b'[{"start": 0, "length": 512}]', b'{"since": "vm@latest", "extents": []}'],
        "holder": [
            b'{"pid": 1, "host": "", "command": "", "since": "", "started": 1}',
            b'{"pid": 1e999, "host": "", "command": "", "since": "", "started": 1}',
        ],
        "run": [
            encode_facts(RunFacts(_ID, "server", "vm", "cbtfs-x", holds=True)),
            b"[" * 5000,
        ],
        "vddk": [
            wire.header(wire.ANSWER, 1, 32) + b"".join(wire.RANGE.pack(at, 128) for at in (0, 256)),
            b'{"call": "Open", "number": 1, "text": "Unknown error", "said": "secret"}',
        ],
        "vmx": [
            b'#!/usr/bin/vmware\nscsi0:0.fileName = "disk-000001.vmdk"\nguestinfo.x = "secret"\n',
            b"1" * 60000 + b'x = "y"',
        ],
        "descriptor": [
            b'# Disk DescriptorFile\nRW 8 VMFS "disk-flat.vmdk"\n',
            b"RW " + b"8" * 5000 + b' VMFS "disk-flat.vmdk"\n',
        ],
        "nbd": [b"".join(number.to_bytes(4, "big") for number in (65536, 4096, 3, 61440, 0))],
        "partitions": volumes.partition_seeds(),
        "lvm": [volumes.GROUP],
        "superblocks": volumes.superblock_seeds(),
        "jbd2": jbd2.seeds(),
        "probe": probe.seeds(),
        "ext": files.ext_seeds(),
        "file index": files.index_seeds(),
        "fat": files.fat_seeds(),
        "words": [b"web 01/\xe2\x80\xae.raw", b"2026-01-01T00:00:00Z"],
    }


def _a_progress() -> RunProgress:
    held = HeldDisk(2000, "uuid:x", "[ds] a/a.vmdk", "[ds] a/a.vmdk", 512, "x", "y/1", None)
    snapshot = HeldSnapshot(
        "cbtfs-x", "snapshot-1", "2026-01-01T00:00:00Z", False, "", None, (), (held,)
    )
    mark = Checkpoint(1, chunk_digest(_PLAIN), 1, Counts())
    return RunProgress(
        _ID, snapshot, {"uuid:x": DiskProgress("full", "first", 4096, "00", (mark,))}
    )


TARGETS: Final[dict[str, Target]] = {
    "manifest": _manifest,
    "state": _state,
    "pin": _pin,
    "shared": _shared,
    "progress": _progress,
    "settings": _settings,
    "frame-header": _frame_header,
    "footer": _footer,
    "trailer": _trailer,
    "payload": _payload,
    "pack": _pack,
    "chunk": _chunk,
    "catalog": _catalog,
    "changes": _changes,
    "holder": _holder,
    "run": _run,
    "vddk": _vddk,
    "vmx": _vmx,
    "descriptor": _descriptor,
    "partitions": volumes.read_partitions,
    "lvm": volumes.read_lvm,
    "superblocks": volumes.read_superblocks,
    "jbd2": jbd2.replay,
    "probe": probe.find,
    "ext": files.read_ext,
    "file index": files.read_index,
    "fat": files.read_fat,
    "words": _words,
    "nbd": _nbd,
    "nfc": nfc.read_nfc,
    "nfc ticket": nfc.read_ticket,
    "streamed vmdk": streamed.read_streamed,
}


def seeds(name: str) -> list[bytes]:
    """Return the valid inputs of a target; empty if it needs none."""
    return _seeds().get(name, [])
