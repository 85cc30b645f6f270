"""Identities: what names what."""

import re
from typing import Final, NewType

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

_ID = re.compile(r"[0-9a-f]{32}\Z")


def is_id(text: str) -> bool:
    """Whether *text* is spelled like the random ids that name points, VMs, disks and packs."""
    return _ID.match(text) is not None
