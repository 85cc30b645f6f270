"""The result of a probe."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """Contents of a volume; the names of file systems are those of blkid."""

    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    JOURNAL = "jbd"
    """The external journal of an ext3 or ext4."""
    XFS = "xfs"
    BTRFS = "btrfs"
    NTFS = "ntfs"
    FAT12 = "fat12"
    FAT16 = "fat16"
    FAT32 = "fat32"
    EXFAT = "exfat"
    REFS = "refs"
    BITLOCKER = "bitlocker"
    LUKS = "luks"
    MD = "md"
    LVM = "lvm"
    SWAP = "swap"
    UNKNOWN = "unknown"


class State(StrEnum):
    """Whether the files of a volume can be read without a recovery."""

    CLEAN = "clean"
    PENDING = "pending"
    """A journal has changes that are not in place: without them, files are missing or old."""
    UNCLEAN = "unclean"
    """It was in use. There is no journal to replay, or none that hides files: read as it is."""
    UNKNOWN = "unknown"
    """Nothing on the volume says so, or the structures that do are damaged or elsewhere."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The contents of a volume."""

    kind: Kind
    state: State = State.UNKNOWN
    uuid: str = ""
    """In the form of blkid and `/etc/fstab`; empty if it has no UUID."""
    label: str = ""
    features: frozenset[str] = frozenset()
    """Features that change how the volume is read; `0x…` with a prefix for unknown ones."""
    detail: str = ""
    """The reason for the state if it is not CLEAN: one phrase."""


NOTHING: Final = Probe(Kind.UNKNOWN)


def uuid_of(data: bytes) -> str:
    """Return sixteen bytes in the usual form; empty if they are zeros or too few."""
    if len(data) != 16 or not any(data):
        return ""
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def text_of(data: bytes) -> str:
    """Return a label: UTF-8 up to the first zero byte."""
    return data.partition(b"\0")[0].decode("utf-8", "replace").rstrip()


def named_bits(value: int, names: dict[int, str], prefix: str) -> Iterable[str]:
    """Yield the names of the bits of *value*; `PREFIX:0x…` for each unknown bit."""
    bit = 1
    while bit <= value:
        if value & bit:
            yield names.get(bit, f"{prefix}:{bit:#x}")
        bit <<= 1
