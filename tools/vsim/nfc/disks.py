"""The disks that NFC can open, and the rules for opening them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tools.vsim.api.nfc import Ticket
from tools.vsim.knobs import NfcKnobs
from tools.vsim.model.disk import Link, SimulatedDisk
from tools.vsim.model.image import data_spans
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.world import World
from tools.vsim.nfc.wire import MULTIWRITER, NOT_ALLOWED, NOT_FOUND, READ_ONLY_FLAG, UNSUPPORTED

DENIED = "NfcAioProcessOpenFileMsg: permission check failed"
BUSY = "Thin/TBZ/Sparse disks cannot be opened in multiwriter mode"


class Refused(Exception):
    """Raised when a disk cannot be opened: ERROR with a code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class OpenDisk:
    """An open link of a disk with its parents."""

    world: World
    machine: SimulatedMachine
    disk: SimulatedDisk
    snapshot: str  # id of a snapshot that holds the link; empty: none
    fd: int
    live: int  # the live image
    size: int

    @property
    def export(self) -> str:
        """Name that rules for reads match, as for NBD."""
        return f"{self.machine.moid}/{self.snapshot or '-'}/{self.disk.spec.key}"

    @property
    def name(self) -> str:
        """Name that rules for NFC match."""
        return f"{self.machine.moid}/{self.disk.spec.key}"

    def image(self) -> int:
        """Return the file to read from: frozen, or merged if the knob says so."""
        if self.snapshot and self.world.knobs.nfc.removed == "merged":
            with self.world.lock:
                if self.world.snapshot(self.snapshot) is None:
                    return self.live
        return self.fd

    def bitmap(self, chunk: int, start: int, count: int, knobs: NfcKnobs) -> bytearray:
        """Return one bit per chunk, padded to a multiple of 4 bytes."""
        bits = bytearray(-(-count // 32) * 4)
        if knobs.allocation == "all" or self.disk.spec.provisioning != "thin":
            chunks = iter(range(count))
        else:
            spans = data_spans(self.fd, min(start + chunk * count, self.size), start)
            chunks = (
                number
                for span in spans
                for number in range((span.start - start) // chunk, -(-(span.end - start) // chunk))
            )
        for number in chunks:
            if not (knobs.misses and self._is_missed(start // chunk + number, knobs)):
                bits[number >> 3] |= 1 << (number & 7)
        return bits

    def _is_missed(self, chunk: int, knobs: NfcKnobs) -> bool:
        text = f"{knobs.seed}/{self.disk.spec.uuid}/{chunk}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return number < knobs.misses * 2**64

    def value(self, key: str) -> str:
        """Return the text of a key of the disk database; empty if it does not exist."""
        hexes = self.disk.spec.uuid.replace("-", "")
        pairs = [hexes[at : at + 2] for at in range(0, 32, 2)]
        cylinders = min(self.size // 512 // (255 * 63), 65535)
        return {
            "uuid": f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}",
            "adapterType": "lsilogic",
            "thinProvisioned": str(int(self.disk.spec.provisioning == "thin")),
            "logicalSectorSize": "512",
            "geometry.cylinders": str(cylinders),
            "geometry.heads": "255",
            "geometry.sectors": "63",
        }.get(key, "")

    def close(self) -> None:
        """Close the disk."""
        os.close(self.fd)
        os.close(self.live)
        if self.snapshot:
            with self.world.changing():
                self.machine.readers[self.snapshot] -= 1


def open_disk(world: World, ticket: Ticket, path: str, flags: int) -> OpenDisk:
    """Open the link at a datastore path; raises Refused."""
    with world.lock:
        machine = world.machines.get(ticket.machine)
        if machine is None:
            raise Refused(NOT_ALLOWED, DENIED)
        disk, link = _find(world, machine, path)
        if ticket.key is not None and disk.spec.key != ticket.key:
            raise Refused(NOT_ALLOWED, DENIED)
        if not flags & READ_ONLY_FLAG and not ticket.is_writable:
            raise Refused(NOT_ALLOWED, DENIED)
        if not flags & READ_ONLY_FLAG:
            raise Refused(UNSUPPORTED, "vsim does not write by NFC")
        if link is disk.current and machine.is_on:
            raise Refused(MULTIWRITER, BUSY)
        image = disk.live if link is disk.current else link.image
        if image is None:
            raise Refused(NOT_ALLOWED, DENIED)
        return _opened(world, machine, disk, link, image)


def _opened(
    world: World, machine: SimulatedMachine, disk: SimulatedDisk, link: Link, image: Path
) -> OpenDisk:
    states = [
        (snapshot, state)
        for snapshot in machine.snapshots
        for state in snapshot.disks
        if state.link is link and state.truth is not None
    ]
    snapshot = states[0][0].moid if states else ""
    size = states[0][1].spec.size if states else disk.spec.size
    fd = os.open(image, os.O_RDONLY)
    live = os.open(disk.live, os.O_RDONLY)
    if snapshot:
        machine.readers[snapshot] += 1
    return OpenDisk(world, machine, disk, snapshot, fd, live, size)


def _find(world: World, machine: SimulatedMachine, path: str) -> tuple[SimulatedDisk, Link]:
    """Return disk and link of a path of the machine; raises Refused."""
    for candidate in (machine, *world.machines.values()):
        disks = {
            *candidate.disks,
            *(state.disk for snapshot in candidate.snapshots for state in snapshot.disks),
        }
        for disk in disks:
            for link in disk.links:
                if disk.path(link) == path:
                    if candidate is not machine:
                        raise Refused(NOT_ALLOWED, DENIED)
                    return disk, link
    raise Refused(NOT_FOUND, "The file does not exist")
