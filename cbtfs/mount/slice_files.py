"""The directory `slices` of one point: its partitions, and a directory for each volume group."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError
from cbtfs.mount.entry import Entry, EntryType
from cbtfs.mount.inodes import SELF, Directory, base_in, inode_of
from cbtfs.views.slices import estimated_bytes
from cbtfs.volumes.segment import Slice
from cbtfs.volumes.slices import Slices


@dataclass(frozen=True, slots=True)
class SliceNode:
    """A file or directory below `slices`. Its slot is its position."""

    entry: Entry
    parent: int
    """Slot of its directory."""
    slice: Slice | None = None
    """None for a directory."""


@dataclass(frozen=True, slots=True)
class SliceFiles:
    """The files and directories below `slices`, in the order of their slots from 1 on."""

    nodes: Sequence[SliceNode]
    failure: CbtfsError | None = None
    """The reason if volume groups are unknown; raised instead of an answer without them."""

    def at(self, slot: int) -> SliceNode | None:
        """Return the node in a slot, or None."""
        return self.nodes[slot - 1] if 0 < slot <= len(self.nodes) else None

    def find(self, parent: int, name: str) -> Entry | None:
        """Return the entry with that name in the directory of slot *parent*, or None."""
        for node in self.nodes:
            if node.parent == parent and node.entry.name == name:
                return node.entry
        self._require_complete()
        return None

    def entries(self, parent: int, after: int) -> Iterator[tuple[Entry, int]]:
        """Return the entries of a directory after offset *after*, each with its offset."""
        self._require_complete()
        return (
            (node.entry, slot)
            for slot, node in enumerate(self.nodes, 1)
            if node.parent == parent and slot > after
        )

    def _require_complete(self) -> None:
        if self.failure is not None:
            raise self.failure


def slice_files(slices: Slices, manifest: Manifest, base: int, time_ns: int) -> SliceFiles:
    """Return the files of the *slices* of the point with that inode base."""
    base = base_in(base, Directory.SLICES)
    nodes: list[SliceNode] = []
    directories: dict[str, int] = {}

    def add(name: str, parent: int, slice_: Slice | None) -> int:
        slot = len(nodes) + 1
        kind = EntryType.DIRECTORY if slice_ is None else EntryType.FILE
        entry = Entry(
            *(name, inode_of(base, slot), kind, time_ns),
            size=0 if slice_ is None else slice_.size,
            allocated_bytes=0 if slice_ is None else estimated_bytes(slice_, manifest),
            is_name_permanent=True,
            is_content_permanent=True,
        )
        nodes.append(SliceNode(entry, parent, slice_))
        return slot

    for slice_ in slices.shown:
        parent = SELF
        for name in slice_.path[:-1]:
            if name not in directories:
                directories[name] = add(name, SELF, None)
            parent = directories[name]
        add(slice_.path[-1], parent, slice_)
    return SliceFiles(nodes, slices.failure)
