"""The block graph of an overlay, as options of qemu-storage-daemon. Pure.

A raw file is a FUSE export, and QEMU 7.2 answers a punched hole there with a discard of the whole
clusters inside: the rest keeps its bytes, and the program that punched it reads no zeros. The loop
driver zeroes ranges that way. So discards of raw files fail with ENOSYS, which makes the kernel
report "not supported", and programs write zeros instead. NBD has a separate request to zero, and
its discards are hints (docs/decisions).
"""

import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs.core.overlay import OverlayDisk

_NO_DISCARD: Final = {
    "event": "none",
    "iotype": "discard",
    "errno": errno.ENOSYS,
    "immediately": True,
    "once": False,
}
"""Rule of blkdebug that fails every discard."""


@dataclass(frozen=True, slots=True)
class ComposedDisk:
    """A disk of an overlay: the image over the raw file of the point."""

    disk: OverlayDisk
    image: Path
    base: Path
    limit: int | None = None
    """Maximum size of the image in bytes: a write beyond fails with ENOSPC."""


def node_name(number: int) -> str:
    """Return the name of the node that shows disk *number*."""
    return f"disk{number}"


def blockdevs(disks: Sequence[ComposedDisk], *, is_read_only: bool = False) -> list[str]:
    """Return the options that compose *disks*; node_name() names the results."""
    nodes = (node for number, disk in enumerate(disks) for node in _nodes(number, disk))
    return [
        word
        for node in nodes
        for word in ("--blockdev", json.dumps({**node, **_mode(node, is_read_only)}))
    ]


def _mode(node: dict[str, Any], is_read_only: bool) -> dict[str, Any]:
    is_base = str(node["node-name"]).startswith("base")
    return {"read-only": is_read_only or is_base}


def _nodes(number: int, composed: ComposedDisk) -> Iterator[dict[str, Any]]:
    yield {"driver": "file", "node-name": f"base-file{number}", "filename": str(composed.base)}
    yield {"driver": "raw", "node-name": f"base{number}", "file": f"base-file{number}"}
    image = f"image{number}"
    yield {
        "driver": "file",
        "node-name": image,
        "filename": str(composed.image),
        "discard": "unmap",
    }
    if composed.limit is not None:
        yield {
            "driver": "raw",
            "node-name": f"limit{number}",
            "file": image,
            "size": composed.limit,
            "discard": "unmap",
        }
        image = f"limit{number}"
    yield {
        "driver": "qcow2",
        "node-name": node_name(number),
        "file": image,
        "backing": f"base{number}",
        "discard": "unmap",
        "detect-zeroes": "unmap",
    }


def fuse_exports(mountpoints: Sequence[Path], *, allows_others: bool) -> list[str]:
    """Return the options that show each disk as a file at its mount point."""
    return [
        word
        for number, path in enumerate(mountpoints)
        for word in (
            "--blockdev",
            json.dumps(
                {
                    "driver": "blkdebug",
                    "node-name": f"raw-node{number}",
                    "image": node_name(number),
                    "inject-error": [_NO_DISCARD],
                }
            ),
            "--export",
            json.dumps(
                {
                    "type": "fuse",
                    "id": f"raw{number}",
                    "node-name": f"raw-node{number}",
                    "mountpoint": str(path),
                    "writable": True,
                    "allow-other": "on" if allows_others else "off",
                }
            ),
        )
    ]


def nbd_exports(disks: Sequence[OverlayDisk], socket: Path, *, is_writable: bool) -> list[str]:
    """Return the options that serve each disk on a Unix socket, as the export of its label."""
    server = {"addr": {"type": "unix", "path": str(socket)}, "max-connections": 0}
    exports = [
        {
            "type": "nbd",
            "id": f"nbd{number}",
            "node-name": node_name(number),
            "name": disk.label,
            "writable": is_writable,
        }
        for number, disk in enumerate(disks)
    ]
    words = ["--nbd-server", json.dumps(server)]
    return words + [word for export in exports for word in ("--export", json.dumps(export))]
