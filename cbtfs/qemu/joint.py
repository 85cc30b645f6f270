"""Several disks as windows of one qcow2 image, which have one limit together. Pure.

The base of the image is the raw files one after the other: QEMU has no driver that concatenates
files, except that for VMDK, whose descriptor lists the extents of a disk as files.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs.qemu.composed import node_name
from cbtfs.qemu.images import SECTOR

# No blank lines: QEMU 7.2 reads the extent that follows one twice.
_DESCRIPTOR: Final = """\
# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentFlat"
# Extents
{extents}
# Disk Data Base
ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "1"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "lsilogic"
"""


@dataclass(frozen=True, slots=True)
class Window:
    """The area of one disk in a joint image, in bytes."""

    offset: int
    size: int
    """In whole sectors."""


@dataclass(frozen=True, slots=True)
class JointImage:
    """A qcow2 image with the writes to all disks, over a base that descriptor() describes."""

    image: Path
    base: Path
    """VMDK descriptor."""
    limit: int
    """Maximum size of the image in bytes: a write beyond fails with ENOSPC."""
    windows: Sequence[Window]


def descriptor(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Return a VMDK descriptor of raw files in its directory, one after the other.

    *sizes* are those of their areas in whole sectors; an area is zeros beyond the end of its file.
    Names are plain: QEMU does not read quotes or long paths there.
    """
    lines = (
        f'RW {size // SECTOR} FLAT "{name}" 0' for name, size in zip(names, sizes, strict=True)
    )
    return _DESCRIPTOR.format(extents="\n".join(lines))


def joint_blockdevs(joint: JointImage, *, is_read_only: bool = False) -> list[str]:
    """Return the options that show each disk of *joint* as the node of its number."""
    return [
        word for node in _nodes(joint, is_read_only) for word in ("--blockdev", json.dumps(node))
    ]


def _nodes(joint: JointImage, is_read_only: bool) -> Iterator[dict[str, Any]]:
    base = {"read-only": True}
    yield {"driver": "file", "node-name": "base-file", "filename": str(joint.base), **base}
    yield {"driver": "vmdk", "node-name": "base", "file": "base-file", **base}
    writable = {"read-only": is_read_only, "discard": "unmap"}
    yield {"driver": "file", "node-name": "image", "filename": str(joint.image), **writable}
    yield {
        "driver": "raw",
        "node-name": "limit",
        "file": "image",
        "size": joint.limit,
        **writable,
    }
    yield {
        "driver": "qcow2",
        "node-name": "joint",
        "file": "limit",
        "backing": "base",
        "detect-zeroes": "unmap",
        **writable,
    }
    for number, window in enumerate(joint.windows):
        yield {
            "driver": "raw",
            "node-name": node_name(number),
            "file": "joint",
            "offset": window.offset,
            "size": window.size,
            **writable,
        }
