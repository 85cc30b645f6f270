"""Formats of disk images that are not raw, by their first and last bytes.

Sources: QEMU's docs/interop/qcow2.rst; VMware, *Virtual Disk Format 5.0*; Microsoft, *Virtual Hard
Disk Image Format Specification* and [MS-VHDX]. A raw disk may hold the same bytes: a guest decides
what is in its first and last sector.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.source.base import DiskSource


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A format of disk images."""

    name: str
    qemu: str
    """Its name in QEMU."""


_QCOW2: Final = ImageFormat("qcow2", "qcow2")
_VMDK: Final = ImageFormat("VMDK", "vmdk")
_VHD: Final = ImageFormat("VHD", "vpc")
_VHDX: Final = ImageFormat("VHDX", "vhdx")
_VHD_COOKIE: Final = b"conectix"
_STARTS: Final = (
    (b"QFI\xfb", _QCOW2),
    (b"KDMV", _VMDK),
    (b"COWD", _VMDK),
    (b"# Disk DescriptorFile", _VMDK),
    (_VHD_COOKIE, _VHD),
    (b"vhdxfile", _VHDX),
)
_SUFFIXES: Final = {".qcow2": _QCOW2, ".vmdk": _VMDK, ".vhd": _VHD, ".vhdx": _VHDX}
_SECTOR: Final = 512
"""Bytes that are examined at each end. The footer of a VHD is the last sector of the file."""


def detect_format(source: DiskSource) -> ImageFormat | None:
    """Return the format that the bytes of *source* suggest; None for a raw disk.

    SourceUnavailable if the bytes cannot be read.
    """
    length = min(_SECTOR, source.size)
    if not length:
        return None
    image_format = format_of_start(bytes(source.read(Extent(0, length))))
    if image_format is not None:
        return image_format
    tail = bytes(source.read(Extent(source.size - length, length)))
    return _VHD if tail.startswith(_VHD_COOKIE) and length == _SECTOR else None


def format_of_start(head: bytes) -> ImageFormat | None:
    """Return the format that the first bytes of an image suggest; None for a raw disk."""
    for magic, image_format in _STARTS:
        if head.startswith(magic):
            return image_format
    return None


def format_of_name(path: PurePath) -> ImageFormat | None:
    """Return the format that the name of a file promises; None for a raw disk.

    The extent `NAME-flat.vmdk` of a VMDK is raw.
    """
    if path.name.lower().endswith("-flat.vmdk"):
        return None
    return _SUFFIXES.get(path.suffix.lower())
