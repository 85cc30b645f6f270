"""Inode numbers, derived from random ids: they survive a remount and are never reused.

A number consists of a base, which is a hash of the id of a VM or a point, and a slot, which is the
position of a file in the directory of that VM or point. A process that receives an inode number
which it has not looked up can therefore find the point without reading every manifest. A disk's
slot is its position in the manifest, which never changes.
"""

import enum
import hashlib
from collections.abc import Container
from typing import Final

from cbtfs.core.manifest import MAX_DISKS

ROOT: Final = 1
"""Root inode of FUSE: base 0, slot 1."""

FIRST_DISK: Final = 2
MAX_SLOT: Final = FIRST_DISK + MAX_DISKS
"""One above the slots of disks."""
SLOT_BITS: Final = MAX_SLOT.bit_length()
_BASE_BITS: Final = 51
"""With the slot 63 bits, so that the number is positive as a signed integer."""
FIRST_BASE: Final = 16
"""Offsets in a directory are bases; offsets below are reserved for entries without a base."""

STATUS_BASE: Final = 2
"""Base of the status directory, below those of VMs and points."""
BY_ID_BASE: Final = 3
"""Base of the directory with links to VMs by id."""

SELF: Final = 0
"""The directory itself."""
EXTRA: Final = 1
"""`latest` of a VM, or `vm.json` of a point."""
BY_ID: Final = 2
"""The link to a VM in the directory of ids."""
FORMER: Final = 3
"""The link to a VM under a former name."""
POINT_LINK: Final = MAX_SLOT
"""A link to a point under any name; no disk uses this slot."""


class Directory(enum.IntEnum):
    """The directories of one point; each has a base, which differs in the two highest bits."""

    POINT = 0
    SLICES = 1
    IMAGES = 2
    """`as`, and the qcow2 images in it."""
    DESCRIPTORS = 3
    """The VMDK descriptors in `as`."""


def base_in(base: int, directory: Directory) -> int:
    """Return the base of a directory of the point with that *base*."""
    return base ^ directory << (_BASE_BITS - 2)


def since_base(point: int, since: int) -> int:
    """Return the base of the images with the changes between two points, from their bases."""
    return point ^ since


def inode_of(base: int, slot: int = SELF) -> int:
    """Return the inode number of file *slot* in the directory with that base."""
    return base << SLOT_BITS | slot


def disk_inode(base: int, index: int) -> int:
    """Return the inode number of the disk at position *index* of the point with that base."""
    return inode_of(base, FIRST_DISK + index)


def base_and_slot(inode: int) -> tuple[int, int]:
    """Return the base and the slot of an inode number."""
    return inode >> SLOT_BITS, inode & MAX_SLOT


def inode_base_of(identity: str, taken: Container[int] = ()) -> int:
    """Return a base for *identity* that is not in *taken*.

    Two of a million ids get bases that differ in the two highest bits only, or not at all, with a
    probability of 1 in 1,100. The second then gets another base, which is stable as long as the
    first id exists.
    """
    attempt = 0
    while True:
        base = _hash(identity, attempt)
        bases = [base_in(base, directory) for directory in Directory]
        if min(bases) >= FIRST_BASE and not any(map(taken.__contains__, bases)):
            return base
        attempt += 1


def _hash(identity: str, attempt: int) -> int:
    digest = hashlib.blake2b(f"{identity}:{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BASE_BITS)
