"""What every transport keeps: a frozen disk in, a reader of its bytes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cbtfs.core.extent import Extent
from cbtfs.source.vsphere.connect.role import Use


@dataclass(frozen=True, slots=True)
class FrozenDisk:
    """A disk of a snapshot, as far as a transport needs to know it."""

    label: str
    vm: str
    """The managed object id of the VM."""
    snapshot: str
    """The managed object id of the snapshot that holds the disk still."""
    key: int
    """The device key."""
    size: int
    """Bytes."""
    path: str
    """Of the disk in the snapshot's configuration: `[datastore] folder/name.vmdk`."""
    datastore_type: str
    """As vSphere calls it: VMFS, NFS, NFS41, vsan, VVOL …"""
    datacenter: str
    """Inventory path of the datacenter that the datastore belongs to."""
    is_flat: bool
    """The backing is a flat file of the disk's size."""
    is_alone: bool
    """The snapshot is the only one of its VM and the disk has no older link."""
    host: str | None = None
    """The managed object id of the host that the VM is on; None if it is not known."""


class DiskReader(Protocol):
    """The bytes of one frozen disk. read() may be called from several threads at once."""

    @property
    def size(self) -> int:
        """Bytes; what the transport found, which must be what vSphere said."""

    @property
    def mode(self) -> str:
        """How the bytes really travel, for the point to tell: https, nbd, nbdssl, hotadd …"""

    def allocated(self) -> Sequence[Extent]:
        """Extents outside of which the disk is known to read as zeros: ascending, disjoint."""

    def read(self, extent: Extent) -> bytes | memoryview:
        """Exactly extent.length bytes, or SourceUnavailable."""

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        """Fill *parts*, together extent.length bytes; raises what read() raises."""

    def close(self) -> None:
        """Let go of the disk: a snapshot with readers is not removed cleanly."""


class Held(Protocol):
    """A VM whose disks stay where they are."""

    @property
    def trouble(self) -> str | None:
        """Why they may move all the same; None if they may not."""

    def end(self) -> None:
        """Let them move again; SourceUnavailable if that did not succeed."""


class Access(Protocol):
    """What keeps storage vMotion from a VM while its snapshot is read.

    From before the snapshot is taken until after it is gone (VDDK Programming Guide, Prepare For
    Access and End Access). What a killed process held stays held until somebody ends it.
    """

    def hold(self, vm: str, identity: str) -> Held:
        """Hold the VM with that managed object id, in the name of *identity*; never raises for
        want of success: a capture goes on without."""

    def end(self, vm: str, identity: str) -> None:
        """End what a process held that is no more; SourceUnavailable."""


class Transport(Protocol):
    """A way for bytes."""

    @property
    def name(self) -> str:
        """As --transport spells it."""

    @property
    def access(self) -> Access | None:
        """How it holds VMs; None if it cannot, or there is no need to."""

    @property
    def privileges(self) -> frozenset[Use]:
        """The groups of the role's privileges that it needs besides those of every capture."""

    def connections(self) -> int:
        """NFC connections for one disk, as a vCenter counts them; 0 if it is not usable at all."""

    def refusal(self, disk: FrozenDisk) -> str | None:
        """Why this transport cannot read *disk*; None if it can, as far as can be told."""

    def open(self, disk: FrozenDisk) -> DiskReader:
        """A reader whose size is the disk's; SourceUnavailable, AccessDenied."""
