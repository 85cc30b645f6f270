"""New random ids."""

import hashlib
import json
import secrets
from collections.abc import Sequence

from cbtfs.core.ids import DiskId, PackId, PointId, VmId


def new_id() -> str:
    """Return 32 random hex digits."""
    return secrets.token_hex(16)


def new_pack_id(tag: str = "") -> PackId:
    """Return a new id that ends with *tag*."""
    return PackId(new_id()[: 32 - len(tag)] + tag)


def new_point_id() -> PointId:
    return PointId(new_id())


def new_vm_id() -> VmId:
    return VmId(new_id())


def vm_id_of(repository: str, identity: Sequence[str]) -> VmId:
    """Return the id that a VM with this identity gets from every program."""
    text = json.dumps(["cbtfs vm", repository, *identity]).encode()
    return VmId(hashlib.sha256(text).hexdigest()[:32])


def new_disk_id() -> DiskId:
    return DiskId(new_id())
