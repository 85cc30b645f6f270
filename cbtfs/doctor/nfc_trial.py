"""Read a part of a VM's disk by NFC and by HTTPS, and compare: `cbtfs doctor --try-nfc`.

NFC was never run against a real host. The report is meant to be sent to the authors, so it has no
names, addresses, data or secrets.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cbtfs.core.extent import Extent, clip, coalesce, total
from cbtfs.errors import CbtfsError, SourceMismatch, SourceUnavailable
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.datastore import DatastoreTransport
from cbtfs.source.transport.nfc.host import HostFacts
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.transport import opened_by_nfc
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.machine import Machine, load_datastores, load_machine
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot_disk import SnapshotLocation, transport_disks

MOST_BYTES: Final = 64 << 20
"""Maximum number of bytes that the trial reads each way."""
_PIECE: Final = 1 << 20
_SECTOR: Final = 512
_ANYWHERE: Final = 16
"""Pieces that are spread over the whole disk; the others are in its allocated parts."""
_ADDRESS: Final = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\[[0-9A-Fa-f:]{2,}\]")
_DATABASE: Final = ("adapterType", "virtualHWVersion")
"""Keys of the disk's database that describe its form."""


@dataclass(slots=True)
class NfcTrial:
    """The report of a trial."""

    server: str
    """Product of the server."""
    host: str | None
    """Product of the VM's host."""
    datastore_type: str
    size: int
    thin: bool | None
    mode: str
    facts: HostFacts | None = None
    """Facts about the host; None if the connection failed."""
    database: dict[str, str | None] = field(default_factory=dict)
    allocated_bytes: int | None = None
    ranges: int = 0
    read_bytes: int = 0
    nfc_seconds: float = 0.0
    https_seconds: float = 0.0
    nfc_digest: str | None = None
    """SHA-256 of all ranges."""
    https_digest: str | None = None
    differing: tuple[Extent, ...] = ()
    error: CbtfsError | None = None
    error_text: str | None = None
    """The error without names and addresses."""

    @property
    def is_equal(self) -> bool:
        return self.error is None and self.nfc_digest is not None and not self.differing


def try_nfc(session: Session, vm: ListedVm, options: NfcOptions) -> NfcTrial:
    """Read up to MOST_BYTES of a disk of *vm*, which must be off, both ways; return the report.

    A failure of NFC, or of HTTPS afterwards, is in the report.

    Raises:
        SourceUnavailable: the VM is not off, or none of its disks can be read by HTTPS.
    """
    machine = load_machine(session, vm)
    _require_off(vm, machine)
    by_https = DatastoreTransport(session.web())
    disk, thin = _disk_of(session, vm, machine, by_https)
    trial = NfcTrial(
        str(session.content.about.fullName),
        machine.host.product,
        disk.datastore_type,
        disk.size,
        thin,
        options.mode,
    )
    try:
        digests = _read_by_nfc(session, disk, options, trial)
        _compare(by_https, disk, digests, trial)
        _require_off(vm, load_machine(session, vm))
    except CbtfsError as exc:
        names = (vm.name, vm.path, disk.path, machine.host.name, session.address.host, session.user)
        trial.error, trial.error_text = exc, _without(str(exc), names)
        return trial
    if trial.differing:
        text = (
            f"{len(trial.differing)} of {trial.ranges} ranges differ: do not capture with "
            "--transport nfc, and send this report"
        )
        trial.error, trial.error_text = SourceMismatch(text), text
    return trial


def _require_off(vm: ListedVm, machine: Machine) -> None:
    if not machine.is_off:
        raise SourceUnavailable(
            f"cannot try NFC on {vm.name}: its power state is {machine.power}: shut it down, or "
            "name a VM that is off"
        )


def _disk_of(
    session: Session, vm: ListedVm, machine: Machine, by_https: DatastoreTransport
) -> tuple[TransportDisk, bool | None]:
    """Return the first disk of the VM that can be read by HTTPS, and whether it is thin."""
    stores = {disk.datastore for disk in machine.disks if disk.datastore is not None}
    datacenter = vm.datacenter if session.is_vcenter else "ha-datacenter"
    location = SnapshotLocation(vm.id, "", datacenter, not machine.snapshots, machine.host_id)
    disks = transport_disks(location, machine.disks, load_datastores(session, stores))
    refusals = []
    for facts in machine.disks:
        disk = disks[facts.key]
        refusal = by_https.refusal(disk) if disk.size else "it is empty"
        if refusal is None:
            return disk, facts.thin
        refusals.append(f"{disk.label}: {refusal}")
    raise SourceUnavailable(
        f"cannot try NFC on {vm.name}: no disk can be read by HTTPS, for the comparison: "
        f"{'; '.join(refusals) or 'the VM has no disk'}"
    )


def chosen_ranges(size: int, allocated: Sequence[Extent]) -> list[Extent]:
    """Return ranges of a disk, ascending: MOST_BYTES at most, the first and the last one included.

    Most of them are spread over the *allocated* extents, the others over the whole disk.
    """
    if size <= MOST_BYTES:
        return [Extent(at, min(_PIECE, size - at)) for at in range(0, size, _PIECE)]
    spread = [(size - _PIECE) * n // (_ANYWHERE - 1) for n in range(_ANYWHERE)]
    used, count = total(allocated), MOST_BYTES // _PIECE - _ANYWHERE
    spread += [_position(allocated, used * n // count) for n in range(count) if used]
    starts = {min(at // _SECTOR * _SECTOR, size - _PIECE) for at in spread}
    starts.add((size - _PIECE) // _SECTOR * _SECTOR)
    joined = coalesce(Extent(at, min(_PIECE, size - at)) for at in sorted(starts))
    return [
        piece
        for extent in joined
        for at in range(extent.start, extent.end, _PIECE)
        for piece in clip([extent], at, at + _PIECE)
    ]


def _position(extents: Sequence[Extent], offset: int) -> int:
    """Return the position in the disk of the byte number *offset* of *extents*."""
    for extent in extents:
        if offset < extent.length:
            return extent.start + offset
        offset -= extent.length
    return extents[-1].end - 1


def _read_by_nfc(
    session: Session, disk: TransportDisk, options: NfcOptions, trial: NfcTrial
) -> dict[Extent, bytes]:
    """Return the digest of each range; complete the report by what the host shows."""
    with opened_by_nfc(session.web(), disk, options) as reader:
        trial.facts = reader.facts
        trial.database = {key: reader.database(key) for key in _DATABASE}
        allocated = reader.allocated()
        trial.allocated_bytes = total(allocated)
        ranges = chosen_ranges(disk.size, allocated)
        trial.ranges, trial.read_bytes = len(ranges), total(ranges)
        digests, trial.nfc_digest, trial.nfc_seconds = _digests(ranges, reader.read)
    return digests


def _compare(
    by_https: DatastoreTransport,
    disk: TransportDisk,
    expected: dict[Extent, bytes],
    trial: NfcTrial,
) -> None:
    reader = by_https.open(disk)
    try:
        read = _digests(list(expected), reader.read)
    finally:
        reader.close()
    digests, trial.https_digest, trial.https_seconds = read
    trial.differing = tuple(e for e, digest in digests.items() if digest != expected[e])


def _digests(
    ranges: Sequence[Extent], read: Callable[[Extent], bytes | memoryview]
) -> tuple[dict[Extent, bytes], str, float]:
    """Return the digest of each range and of all, and the seconds that the reads took."""
    digests, everything, seconds = {}, hashlib.sha256(), 0.0
    for extent in ranges:
        began = time.monotonic()
        data = read(extent)
        seconds += time.monotonic() - began
        digests[extent] = hashlib.sha256(data).digest()
        everything.update(data)
    return digests, everything.hexdigest(), seconds


def _without(text: str, names: Sequence[str | None]) -> str:
    """Return *text* without these names and without IP addresses."""
    for name in sorted((name for name in names if name), key=len, reverse=True):
        text = text.replace(name, "…")
    return _ADDRESS.sub("…", text)
