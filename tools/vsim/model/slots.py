"""Slots of disks, such as scsi0:1, sata0:0, nvme0:0 or ide0:0, and their device keys.

Keys follow the convention of vSphere: controllers ide 200, scsi 1000, sata 15000, nvme 31000; disks
ide 3000, scsi 2000, sata 16000, nvme 32000. Each controller takes as many keys as it has units.
"""

import re
from collections.abc import Set
from itertools import count
from typing import NamedTuple

from tools.vsim.inventory import InventoryError

CONTROLLER_KEYS = {"ide": 200, "scsi": 1000, "sata": 15000, "nvme": 31000}
DISK_KEYS = {"ide": 3000, "scsi": 2000, "sata": 16000, "nvme": 32000}
UNITS = {"ide": 2, "scsi": 16, "sata": 30, "nvme": 15}
SCSI_OWN_UNIT = 7  # reserved for the controller


class Slot(NamedTuple):
    """A unit of a controller."""

    bus: str
    controller: int
    unit: int


def parse_slot(text: str) -> Slot:
    """Return the slot named *text*; raises InventoryError."""
    match = re.fullmatch(r"(ide|scsi|sata|nvme)(\d):(\d+)", text)
    if not match:
        raise InventoryError(f"invalid slot {text!r}: use e.g. scsi0:1")
    slot = Slot(match[1], int(match[2]), int(match[3]))
    if slot.unit >= UNITS[slot.bus] or (slot.bus, slot.unit) == ("scsi", SCSI_OWN_UNIT):
        raise InventoryError(f"invalid slot {text!r}: the controller has no such unit")
    return slot


def controller_key(slot: Slot) -> int:
    return CONTROLLER_KEYS[slot.bus] + slot.controller


def disk_key(text: str) -> int:
    """Return the device key of a disk in a slot; raises InventoryError."""
    slot = parse_slot(text)
    return DISK_KEYS[slot.bus] + slot.controller * UNITS[slot.bus] + slot.unit


def slot_of(controller: int, unit: int) -> str:
    """Return the slot of a controller's unit, by device key; raises InventoryError."""
    for bus, first in CONTROLLER_KEYS.items():
        if first <= controller < first + 10:
            text = f"{bus}{controller - first}:{unit}"
            parse_slot(text)
            return text
    raise InventoryError(f"no controller has device key {controller}")


def free_slot(used: Set[str]) -> str:
    """Return the first free SCSI slot."""
    for number in count():
        controller, unit = divmod(number, UNITS["scsi"])
        slot = f"scsi{controller}:{unit}"
        if unit != SCSI_OWN_UNIT and slot not in used:
            return slot
    raise AssertionError("count() ended")
