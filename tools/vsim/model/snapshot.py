"""Snapshots of a machine, and their tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tools.vsim.model.disk import DiskState
from tools.vsim.model.spec import MachineSpec


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """The arguments of CreateSnapshot_Task."""

    name: str
    description: str = ""
    memory: bool = False
    quiesce: bool = False


@dataclass(eq=False, slots=True)
class Snapshot:
    """The state of a machine at one moment, and its parent in the tree."""

    moid: str
    number: int
    name: str
    description: str
    created: datetime
    quiesced: bool
    power: str
    parent: "Snapshot | None"
    spec: MachineSpec
    disks: tuple[DiskState, ...]

    @property
    def depth(self) -> int:
        return 1 + (self.parent.depth if self.parent else 0)

    def disk(self, key: int) -> DiskState | None:
        return next((disk for disk in self.disks if disk.spec.key == key), None)


class SnapshotTree:
    """The snapshots of one machine, oldest first."""

    def __init__(self) -> None:
        self._members: list[Snapshot] = []
        self.current: Snapshot | None = None

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, snapshot: Snapshot) -> bool:
        return snapshot in self._members

    def children(self, parent: Snapshot | None) -> list[Snapshot]:
        return [snapshot for snapshot in self._members if snapshot.parent is parent]

    def below(self, snapshot: Snapshot) -> list[Snapshot]:
        """Return the snapshot and its descendants, leaves first."""
        descendants = [member for child in self.children(snapshot) for member in self.below(child)]
        return [*descendants, snapshot]

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot and make it the current one."""
        self._members.append(snapshot)
        self.current = snapshot

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot; its children move to its parent."""
        self._members.remove(snapshot)
        for child in self.children(snapshot):
            child.parent = snapshot.parent
        if self.current is snapshot:
            self.current = snapshot.parent
