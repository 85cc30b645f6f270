"""JSON documents of machines and disk images, for operations."""

import hashlib
from pathlib import Path
from typing import Any

from tools.vsim.model.disk import DiskState
from tools.vsim.model.machine import SimulatedMachine


def describe(machine: SimulatedMachine) -> dict[str, Any]:
    """Return the JSON object of a machine."""
    return {
        "id": machine.moid,
        "name": machine.spec.name,
        "power": machine.power,
        "cbt": machine.spec.cbt,
        "consolidation_needed": machine.consolidation_needed,
        "relocation_disabled_by": list(machine.relocation_disabled_by),
        "disks": [
            {
                "key": disk.spec.key,
                "label": disk.spec.label,
                "size": disk.spec.size,
                "file": str(disk.live),
                "datastore_path": disk.path(),
                "change_id": disk.change_id,
            }
            for disk in machine.disks
        ],
        "snapshots": [
            {
                "id": snapshot.moid,
                "name": snapshot.name,
                "parent": snapshot.parent.moid if snapshot.parent else None,
                "exports": [
                    f"{machine.moid}/{snapshot.moid}/{disk.spec.key}"
                    for disk in snapshot.disks
                    if disk.truth
                ],
            }
            for snapshot in machine.snapshots
        ],
    }


def describe_image(disk: DiskState, image: Path) -> dict[str, Any]:
    """Return the JSON object of a snapshot disk's reference image."""
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "path": str(image),
        "size": disk.spec.size,
        "sha256": digest,
        "change_id": disk.tracked.change_id if disk.tracked else None,
    }
