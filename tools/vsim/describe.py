"""Machines, as the operation `vms` tells of them."""

from typing import Any

from tools.vsim.model.machine import Machine


def describe(machine: Machine) -> dict[str, Any]:
    """A JSON object."""
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
                "id": each.moid,
                "name": each.name,
                "parent": each.parent.moid if each.parent else None,
                "exports": [
                    f"{machine.moid}/{each.moid}/{frozen.spec.key}"
                    for frozen in each.disks
                    if frozen.truth
                ],
            }
            for each in machine.snapshots
        ],
    }
