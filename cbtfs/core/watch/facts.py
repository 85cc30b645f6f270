"""Facts about a VM that a watch compares: power, host, snapshots, disks, settings."""

from dataclasses import dataclass, fields, replace
from typing import Final

CONNECTED: Final = "connected"


@dataclass(frozen=True, slots=True)
class SnapshotFact:
    """One snapshot of a VM."""

    id: str
    name: str
    is_own: bool = False
    """Its name is that of a snapshot of cbtfs."""


@dataclass(frozen=True, slots=True)
class SnapshotTree:
    """All snapshots of a VM, and the one that its state is based on."""

    entries: tuple[SnapshotFact, ...] = ()
    current: str | None = None
    """The id of the current snapshot."""


@dataclass(frozen=True, slots=True)
class DiskFact:
    """One virtual disk."""

    identity: str
    """The key of the disk within the VM: the UUID of its backing or its device key."""
    label: str
    size: int
    """Bytes."""
    datastore: str
    """Name of the datastore of the first link of its chain."""
    mode: str = ""
    """Mode, sharing and controller slot, as a text that differs if they do."""
    epoch: str | None = None
    """The part of the change ID that a reset of tracking changes; None without tracking."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The virtual hardware of a VM."""

    disks: tuple[DiskFact, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    """Aspects that a reconfiguration changes, such as `cpus`, with a text that differs if they
    do."""


@dataclass(frozen=True, slots=True)
class VmFacts:
    """A VM at one moment. None means unknown, which is never a change."""

    name: str | None = None
    power: str | None = None
    connection: str | None = None
    host: str | None = None
    """The managed object id."""
    home: str | None = None
    """Name of the datastore of the configuration file."""
    snapshots: SnapshotTree | None = None
    hardware: Hardware | None = None
    is_tracking: bool | None = None
    notes: str | None = None
    guest: str | None = None
    version: str | None = None

    def updated(self, newer: "VmFacts") -> "VmFacts":
        """Return these facts with those that *newer* knows."""
        known = {
            field.name: value
            for field in fields(newer)
            if (value := getattr(newer, field.name)) is not None
        }
        return replace(self, **known)

    @property
    def is_connected(self) -> bool:
        """The server knows the present state; otherwise it may report an old or empty one."""
        return self.connection in (None, CONNECTED)
