"""A VMDK descriptor whose only extent is a raw file. The layout is that of qemu-img(1)."""

from typing import Final

_SECTOR: Final = 512
_HEADS: Final = 16
_SECTORS: Final = 63
_MAX_PATH_BYTES: Final = 511
"""QEMU cuts a longer path."""
_TEMPLATE: Final = """\
# Disk DescriptorFile
version=1
CID={content:08x}
parentCID=ffffffff
createType="monolithicFlat"

# Extent description
RW {sectors} FLAT "{path}" 0

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{sectors_per_track}"
ddb.adapterType = "ide"
ddb.toolsVersion = "2147483647"
"""


def encode_vmdk(disk_bytes: int, path: bytes, content: int) -> bytes:
    """Return the descriptor of a disk whose data is in the raw file *path*.

    *content*: a number below 2^32 - 2 that differs between different contents.

    Raises:
        ValueError: the disk is empty, which QEMU does not open, or the path is unsuitable.
    """
    if disk_bytes == 0:
        raise ValueError("a VMDK descriptor has at least one sector")
    if len(path) > _MAX_PATH_BYTES or any(byte in path for byte in b'"\r\n\0'):
        raise ValueError("a VMDK descriptor cannot contain the path of the disk")
    sectors = -(-disk_bytes // _SECTOR)
    text = _TEMPLATE.format(
        content=content,
        sectors=sectors,
        path=path.decode("utf-8", "surrogateescape"),
        cylinders=sectors // (_HEADS * _SECTORS),
        heads=_HEADS,
        sectors_per_track=_SECTORS,
    )
    return text.encode("utf-8", "surrogateescape")
