"""New random ids."""

import secrets

from cbtfs.core.ids import DiskId, PackId, PointId, VmId


def new_id() -> str:
    """Return 32 random hex digits."""
    return secrets.token_hex(16)


def new_pack_id() -> PackId:
    return PackId(new_id())


def new_point_id() -> PointId:
    return PointId(new_id())


def new_vm_id() -> VmId:
    return VmId(new_id())


def new_disk_id() -> DiskId:
    return DiskId(new_id())
