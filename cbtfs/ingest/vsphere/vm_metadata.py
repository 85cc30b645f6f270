"""What a point's manifest keeps of its VM, disks and snapshot: vm.json in the mount.

The next point's changes are judged by it, so what it says of disks and snapshot is a contract
between versions: members are added, never renamed.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Any

from cbtfs.ingest.vsphere.options import LeftOut
from cbtfs.source.vsphere.cbt.readiness import Ready
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import DatastoreFacts
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot import Taken


def metadata_of(
    session: Session,
    vm: ListedVm,
    ready: Ready,
    taken: Taken,
    disks: Sequence[DiskFacts],
    stores: Sequence[DatastoreFacts],
    transport: str,
) -> dict[str, Any]:
    """JSON, without what was left out. Nothing of extraConfig or notes: secrets stand there."""
    machine, about = ready.machine, session.content.about
    config = machine.config
    return {
        "source": "vsphere",
        "server": {
            "name": str(session.address),
            "product": str(about.fullName),
            "api": str(about.apiVersion),
            "id": session.server_id,
        },
        "vm": {
            "moref": vm.id,
            "path": vm.path,
            "instance_uuid": vm.instance_uuid,
            "bios_uuid": str(config.uuid),
            "hardware": str(config.version),
            "guest": str(config.guestFullName),
            "guest_id": str(config.guestId),
            "cpus": int(config.hardware.numCPU or 0),
            "memory_mib": int(config.hardware.memoryMB or 0),
            "configuration": str(config.files.vmPathName or ""),
            "firmware": str(config.firmware or ""),
            "power": machine.power,
            "tools": machine.tools,
        },
        "guest": _guest(machine.guest),
        "host": asdict(machine.host),
        "datastores": [{"name": store.name, "type": store.type} for store in stores],
        "snapshot": {
            "name": taken.entry.name,
            "moref": taken.entry.id,
            "created": taken.entry.created.astimezone(UTC).isoformat(),
            "consistency": taken.quiesce,
            "others": [each.name for each in taken.others],
        },
        "tracking": {
            "is_on": ready.untracked is None,
            "reason": None if ready.untracked is None else ready.untracked.text,
        },
        "changed": ready.done,
        "transport": transport,
        "disks": [disk.metadata() for disk in disks],
        "left_out": [],
    }


def _guest(guest: Any) -> dict[str, Any] | None:
    """What the guest's tools said last; None if they never did."""
    if guest is None:
        return None
    addresses = [address for nic in guest.net or () for address in nic.ipAddress or ()]
    if guest.ipAddress and guest.ipAddress not in addresses:
        addresses.insert(0, guest.ipAddress)
    return {
        "host_name": guest.hostName,
        "addresses": [str(address) for address in addresses],
        "system": guest.guestFullName,
        "family": guest.guestFamily,
        "state": guest.guestState,
        "tools_version": guest.toolsVersion,
        "tools_status": guest.toolsVersionStatus2,
    }


def left_out_documents(left_out: Sequence[LeftOut]) -> list[dict[str, Any]]:
    return [{"disk": each.disk, "key": each.key, "reason": each.reason} for each in left_out]
