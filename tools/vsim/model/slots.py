"""Where a disk is plugged in: scsi0:1, sata0:0, nvme0:0, ide0:0; and the device keys of these.

Keys follow the convention of vSphere: controllers ide 200, scsi 1000, sata 15000, nvme 31000; disks
ide 3000, scsi 2000, sata 16000, nvme 32000, in steps of the units that a controller has.
"""

import re
from collections.abc import Set
from itertools import count
from typing import NamedTuple

from tools.vsim.inventory import InventoryError

CONTROLLER_KEYS = {"ide": 200, "scsi": 1000, "sata": 15000, "nvme": 31000}
DISK_KEYS = {"ide": 3000, "scsi": 2000, "sata": 16000, "nvme": 32000}
UNITS = {"ide": 2, "scsi": 16, "sata": 30, "nvme": 15}
SCSI_OWN_UNIT = 7  # the controller's own


class Slot(NamedTuple):
    """A place on a bus."""

    bus: str
    controller: int
    unit: int


def parse_slot(text: str) -> Slot:
    """The slot called *text*; raises InventoryError."""
    found = re.fullmatch(r"(ide|scsi|sata|nvme)(\d):(\d+)", text)
    if not found:
        raise InventoryError(f"not a slot: {text!r}; one looks like scsi0:1")
    slot = Slot(found[1], int(found[2]), int(found[3]))
    if slot.unit >= UNITS[slot.bus] or (slot.bus, slot.unit) == ("scsi", SCSI_OWN_UNIT):
        raise InventoryError(f"no such unit: {text!r}")
    return slot


def controller_key(slot: Slot) -> int:
    return CONTROLLER_KEYS[slot.bus] + slot.controller


def disk_key(text: str) -> int:
    """The device key of a disk in a slot; raises InventoryError."""
    slot = parse_slot(text)
    return DISK_KEYS[slot.bus] + slot.controller * UNITS[slot.bus] + slot.unit


def slot_of(controller: int, unit: int) -> str:
    """The slot of a unit of the controller with that device key; raises InventoryError."""
    for bus, first in CONTROLLER_KEYS.items():
        if first <= controller < first + 10:
            text = f"{bus}{controller - first}:{unit}"
            parse_slot(text)
            return text
    raise InventoryError(f"no controller has key {controller}")


def free_slot(used: Set[str]) -> str:
    """The first SCSI slot that is not in use."""
    for number in count():
        controller, unit = divmod(number, UNITS["scsi"])
        slot = f"scsi{controller}:{unit}"
        if unit != SCSI_OWN_UNIT and slot not in used:
            return slot
    raise AssertionError("count() ended")
