"""Identities: what names what."""

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
"""Dense number of an object within one catalog; 0 is no object."""
Digest = NewType("Digest", bytes)
"""32 bytes: BLAKE3-256 over kind, level and content (docs/format.md)."""

DIGEST_BYTES: Final = 32
NULL_DIGEST: Final = Digest(bytes(DIGEST_BYTES))
"""Stands for a child that is all zeros."""


class Ref(NamedTuple):
    """An object that a node refers to: the digest says what it is, the number where to look."""

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
    """Whether *text* is spelled like the random ids that name points, VMs, disks and packs."""
    return _ID.match(text) is not None
