"""JSON documents of machines, for the operation `vms`."""

from typing import Any

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
