"""The partition table of a disk, of either kind."""

from dataclasses import dataclass, field
from typing import Literal

from cbtfs.core.extent import Extent


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, with the number that Linux and sfdisk give it."""

    number: int
    extent: Extent
    uuid: str = field(default="", compare=False)
    """PARTUUID of Linux, in small letters; empty if the table has none."""
    label: str = field(default="", compare=False)
    kind: str = field(default="", compare=False)
    """Type of a GPT partition as a UUID in small letters; empty for an MBR."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of a table that is not a usable partition, and the reason."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """The partitions of a disk by ascending number."""

    kind: Literal["gpt", "mbr"]
    sector_bytes: int
    partitions: tuple[Partition, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    note: str | None = None
    """A defect of the table itself, for example a damaged header."""


def entry_of(number: int, start: int, length: int, size: int) -> Partition | Skipped:
    """Return the partition [start, start + length) of a disk of *size* bytes, if it lies inside."""
    if length <= 0:
        return Skipped(number, "the partition table gives it no valid length")
    if start + length > size:
        return Skipped(number, f"it ends at byte {start + length}, beyond the end of the disk")
    return Partition(number, Extent(start, length))
