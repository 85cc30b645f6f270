"""The exports of a point as options of qemu-storage-daemon. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ALLOCATION: Final = "base:allocation"
_BITMAP: Final = "qemu:dirty-bitmap:"
_CREDENTIALS: Final = "tls"


@dataclass(frozen=True, slots=True)
class ExportedDisk:
    """A disk as a qcow2 image over its raw file, both in a mount."""

    name: str
    """Name of the export."""
    image: Path
    raw: Path
    bitmap: str | None = None
    """Name of the bitmap in the image."""

    @property
    def contexts(self) -> list[str]:
        """Metadata contexts that clients can ask for."""
        return [ALLOCATION] if self.bitmap is None else [ALLOCATION, _BITMAP + self.bitmap]


def exports(
    disks: Sequence[ExportedDisk], listener: int, tls_directory: Path | None = None
) -> list[str]:
    """Return the options that serve *disks* on the socket with the descriptor *listener*.

    *tls_directory*: certificates in the names of QEMU; clients then need one of the same authority.
    """
    server: dict[str, Any] = {"addr": {"type": "fd", "str": str(listener)}, "max-connections": 0}
    words = []
    if tls_directory is not None:
        words += ["--object", json.dumps(_credentials(tls_directory))]
        server["tls-creds"] = _CREDENTIALS
    for number, disk in enumerate(disks):
        words += ["--blockdev", json.dumps(_node(number, disk))]
    words += ["--nbd-server", json.dumps(server)]
    for number, disk in enumerate(disks):
        words += ["--export", json.dumps(_export(number, disk))]
    return words


def _credentials(directory: Path) -> dict[str, Any]:
    return {
        "qom-type": "tls-creds-x509",
        "id": _CREDENTIALS,
        "dir": str(directory),
        "endpoint": "server",
        "verify-peer": True,
    }


def _node(number: int, disk: ExportedDisk) -> dict[str, Any]:
    """Return the image; its data file is named here, too, because it is that of this mount."""
    return {
        "driver": "qcow2",
        "node-name": f"disk{number}",
        "read-only": True,
        "file": {"driver": "file", "filename": str(disk.image), "read-only": True},
        "data-file": {"driver": "file", "filename": str(disk.raw), "read-only": True},
    }


def _export(number: int, disk: ExportedDisk) -> dict[str, Any]:
    bitmaps = {} if disk.bitmap is None else {"bitmaps": [disk.bitmap]}
    return {
        "type": "nbd",
        "id": f"nbd{number}",
        "node-name": f"disk{number}",
        "name": disk.name,
        "writable": False,
        **bitmaps,
    }
