"""Identities of points, VMs, disks, packs and objects."""

import re
from typing import Final, NamedTuple, NewType

PointId = NewType("PointId", str)
"""32 lower-case hex digits, random."""
VmId = NewType("VmId", str)
"""32 lower-case hex digits, random: one VM's history in this repository."""
DiskId = NewType("DiskId", str)
"""32 lower-case hex digits, random: one disk's history in this repository."""
PackId = NewType("PackId", str)
"""32 lower-case hex digits, random."""
ObjectId = NewType("ObjectId", int)
"""Dense number of an object in one catalog; 0 means no object."""
Digest = NewType("Digest", bytes)
"""32 bytes: BLAKE3-256 over kind, level and content (docs/format.md)."""

DIGEST_BYTES: Final = 32
NULL_DIGEST: Final = Digest(bytes(DIGEST_BYTES))
"""Digest of a null child, whose range is all zeros."""


class Ref(NamedTuple):
    """A reference to an object: the digest identifies it, the number locates it."""

    number: ObjectId
    digest: Digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.digest == other.digest

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.digest)


_ID = re.compile(r"[0-9a-f]{32}\Z")


def is_id(text: str) -> bool:
    """Return whether *text* has the form of the random ids of points, VMs, disks and packs."""
    return _ID.match(text) is not None
