"""The VM metadata of a point: the document about VM, disks and snapshot, vm.json in the mount.

The next run uses it to decide whether change lists can be trusted. So the members about disks and
snapshot are a contract between versions: members are added, never renamed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any

from cbtfs.ingest.vsphere.options import LeftOut
from cbtfs.source.vsphere.cbt.readiness import Ready
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import DatastoreFacts
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot import Taken


@dataclass(frozen=True, slots=True)
class DiskMetadata:
    """A disk that was read or was to be read."""

    facts: DiskFacts
    transport_mode: str | None
    """Effective mode of the transport; None if the disk was never opened."""


@dataclass(frozen=True, slots=True)
class TransportMetadata:
    """The transport that was used."""

    name: str
    refusals: tuple[str, ...]
    """Reasons against each transport that was tried before."""


@dataclass(frozen=True, slots=True)
class ResumedMetadata:
    """The interrupted run that was resumed."""

    run: str
    not_read_bytes: Mapping[str, int]
    """Bytes that were not read again, by label of the disk."""


@dataclass(frozen=True, slots=True)
class VmMetadata:
    """All facts about a VM that its point records."""

    vm: ListedVm
    ready: Ready
    taken: Taken
    datastores: Sequence[DatastoreFacts]
    transport: TransportMetadata
    disks: Sequence[DiskMetadata]
    left_out: Sequence[LeftOut]
    resumed: ResumedMetadata | None

    def document(self, session: Session) -> dict[str, Any]:
        """Return the JSON document, with data of the server from *session*.

        It contains neither extraConfig nor the notes of the VM, because they may hold secrets.
        """
        document = {
            "source": "vsphere",
            "server": _server(session),
            "vm": self._vm(),
            "guest": _guest(self.ready.machine.guest),
            "host": asdict(self.ready.machine.host),
            "datastores": [{"name": store.name, "type": store.type} for store in self.datastores],
            "snapshot": {
                "name": self.taken.entry.name,
                "moref": self.taken.entry.id,
                "created": self.taken.entry.created.astimezone(UTC).isoformat(),
                "consistency": self.taken.quiesce,
                "others": [entry.name for entry in self.taken.others],
            },
            "tracking": {
                "is_on": self.ready.untracked is None,
                "reason": None if self.ready.untracked is None else self.ready.untracked.text,
            },
            "changed": self.ready.done,
            "transport": self.transport.name,
            "disks": [_disk(disk) for disk in self.disks],
            "left_out": [
                {"disk": disk.disk, "key": disk.key, "reason": disk.reason}
                for disk in self.left_out
            ],
            "transports_refused": list(self.transport.refusals),
        }
        if self.resumed is not None:
            document["resumed"] = asdict(self.resumed)
        return document

    def _vm(self) -> dict[str, Any]:
        vm, machine = self.vm, self.ready.machine
        config = machine.config
        return {
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
        }


def _server(session: Session) -> dict[str, Any]:
    about = session.content.about
    return {
        "name": str(session.address),
        "product": str(about.fullName),
        "api": str(about.apiVersion),
        "id": session.server_id,
    }


def _disk(disk: DiskMetadata) -> dict[str, Any]:
    document = disk.facts.metadata()
    if disk.transport_mode is not None:
        document["transport_mode"] = disk.transport_mode
    return document


def _guest(guest: Any) -> dict[str, Any] | None:
    """Return the last report of the guest's tools; None without one."""
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
