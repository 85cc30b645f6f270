"""Inode numbers: derived from random ids, so that they survive a remount and mean one thing ever.

A number is a base, a hash of the id of a VM or a point, and a slot, the place of a file within
that one's directory. So a process that meets the number of a file that it has not looked up finds
the point without reading every manifest. A disk's slot is its place in the manifest, which never
changes.
"""

import hashlib
from collections.abc import Container
from typing import Final

from cbtfs.core.manifest import MAX_DISKS

ROOT: Final = 1
"""What FUSE calls the root: base 0, slot 1."""

FIRST_DISK: Final = 2
MAX_SLOT: Final = FIRST_DISK + MAX_DISKS
"""Above those of disks."""
SLOT_BITS: Final = MAX_SLOT.bit_length()
_BASE_BITS: Final = 51
"""With the slot 63 bits: a number is positive for programs that take it for signed, too."""
_FIRST_BASE: Final = 16
"""Offsets in a directory are bases; those below are for what has none."""

STATUS_BASE: Final = 2
"""Below those of VMs and points: the folder of the status of the mount."""
BY_ID_BASE: Final = 3
"""The folder of links to VMs by their ids."""

SELF: Final = 0
"""The directory itself."""
EXTRA: Final = 1
"""`latest` of a VM, `vm.json` of a point."""
BY_ID: Final = 2
"""The link in the folder of ids to a VM."""
FORMER: Final = 3
"""The link to a VM under a name that it had before."""
POINT_LINK: Final = MAX_SLOT
"""A link to a point under whatever name: no disk has the slot."""


def inode_of(base: int, slot: int = SELF) -> int:
    """The number of file *slot* of the directory with that base."""
    return base << SLOT_BITS | slot


def base_and_slot(inode: int) -> tuple[int, int]:
    """What inode_of() was given."""
    return inode >> SLOT_BITS, inode & MAX_SLOT


def inode_base_of(identity: str, taken: Container[int] = ()) -> int:
    """A base for *identity* that is not taken.

    Two of a million ids share one with a probability of 1 in 4,500: then the second gets
    another, which holds as long as the first is there.
    """
    attempt = 0
    while True:
        base = _hash(identity, attempt)
        if base >= _FIRST_BASE and base not in taken:
            return base
        attempt += 1


def _hash(identity: str, attempt: int) -> int:
    digest = hashlib.blake2b(f"{identity}:{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BASE_BITS)
