"""The exports of an overlay, as options of qemu-storage-daemon. Pure.

A raw file is a FUSE export, and QEMU 7.2 answers a punched hole there with a discard of the whole
clusters inside: the rest keeps its bytes, and the program that punched it reads no zeros. The loop
driver zeroes ranges that way. So discards of raw files fail with ENOSYS, which makes the kernel
report "not supported", and programs write zeros instead. NBD has a separate request to zero, and
its discards are hints (docs/decisions).
"""

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cbtfs.core.overlay import OverlayDisk
from cbtfs.qemu.composed import node_name

_NO_DISCARD: Final = {
    "event": "none",
    "iotype": "discard",
    "errno": errno.ENOSYS,
    "immediately": True,
    "once": False,
}
"""Rule of blkdebug that fails every discard."""


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


def nbd_nodes(disks: Sequence[OverlayDisk], socket: Path) -> list[str]:
    """Return the options that open each disk of nbd_exports() as its node in another daemon."""
    server = {"type": "unix", "path": str(socket)}
    nodes = [
        {
            "driver": "nbd",
            "node-name": node_name(number),
            "server": server,
            "export": disk.label,
        }
        for number, disk in enumerate(disks)
    ]
    return [word for node in nodes for word in ("--blockdev", json.dumps(node))]


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
