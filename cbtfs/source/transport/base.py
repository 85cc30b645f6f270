"""The protocol of transports, which open readers for the disks of a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cbtfs.core.extent import Extent
from cbtfs.source.vsphere.connect.role import Use


@dataclass(frozen=True, slots=True)
class TransportDisk:
    """The data of a snapshot disk that a transport needs."""

    label: str
    vm: str
    """The managed object id of the VM."""
    snapshot: str
    """The managed object id of the snapshot."""
    key: int
    """The device key."""
    size: int
    """Bytes."""
    path: str
    """Path of the disk in the snapshot's configuration: `[datastore] folder/name.vmdk`."""
    datastore_type: str
    """The name in vSphere: VMFS, NFS, NFS41, vsan, VVOL …"""
    datacenter: str
    """Inventory path of the datacenter that the datastore belongs to."""
    is_flat: bool
    """The backing is a flat file of the disk's size."""
    is_alone: bool
    """The snapshot is the only one of its VM and the disk has no older link."""
    host: str | None = None
    """The managed object id of the VM's host; None if unknown."""
    slot: str = ""
    """Controller and unit: scsi0:1; empty if unknown."""
    is_whole: bool = False
    """The whole disk will be read: no change list since an earlier point can be used."""


class DiskReader(Protocol):
    """Reads one snapshot disk. Several threads may call read() at once."""

    @property
    def size(self) -> int:
        """Size in bytes as seen by the transport; it must equal the size in vSphere."""

    @property
    def mode(self) -> str:
        """The effective transport mode, recorded in the point: https, nbd, nbdssl, hotadd …"""

    def allocated(self) -> Sequence[Extent]:
        """Return the extents outside of which the disk reads as zeros: ascending, disjoint."""

    def read(self, extent: Extent) -> bytes | memoryview:
        """Return exactly extent.length bytes; raise SourceUnavailable if that is impossible."""

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Fill *parts*, together extent.length bytes; raises what read() raises."""

    def close(self) -> None:
        """Close the disk: a snapshot with open readers is not removed cleanly."""


class Held(Protocol):
    """A VM for which storage vMotion is disabled."""

    @property
    def trouble(self) -> str | None:
        """Why its disks may move nevertheless; None if storage vMotion is disabled."""

    def end(self) -> None:
        """Enable storage vMotion again; SourceUnavailable if that fails."""


class Access(Protocol):
    """Disables storage vMotion of a VM while its snapshot is read.

    From before the snapshot is taken until after it is gone (VDDK Programming Guide, Prepare For
    Access and End Access). After a killed process it stays disabled until end() is called.
    """

    def hold(self, vm: str, identity: str) -> Held:
        """Hold the VM with that managed object id, in the name of *identity*.

        A failure is not raised but reported by the result: the capture continues.
        """

    def end(self, vm: str, identity: str) -> None:
        """End the hold of a process that is gone; SourceUnavailable if that fails."""


class Transport(Protocol):
    """Reads the disks of a snapshot over one protocol."""

    @property
    def name(self) -> str:
        """The name in --transport."""

    @property
    def access(self) -> Access | None:
        """Holds VMs during the capture; None if that is impossible or unnecessary."""

    @property
    def privileges(self) -> frozenset[Use]:
        """The groups of the role's privileges that it needs besides those of every capture."""

    def connections(self) -> int:
        """Return the NFC connections per disk; 0 if none are needed or it is not usable."""

    def refusal(self, disk: TransportDisk) -> str | None:
        """Return why this transport cannot read *disk*; None if no obstacle is known."""

    def open(self, disk: TransportDisk) -> DiskReader:
        """Return a reader of the disk's size; raise SourceUnavailable or AccessDenied."""


@runtime_checkable
class Probing(Protocol):
    """A transport that a host may refuse for the disks of a running VM."""

    def probe(self, disk: TransportDisk) -> str | None:
        """Read a few bytes of the snapshot disk; return why that fails, or None.

        AccessDenied if the user lacks a privilege.
        """
