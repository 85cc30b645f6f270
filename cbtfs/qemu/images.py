"""The qcow2 images of overlays, made and examined by qemu-img."""

import json
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.core.extent import Extent, coalesce
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, DataCorrupt, UsageError

_SECONDS: Final = 600.0
SECTOR: Final = 512
"""QEMU rounds sizes of disks up to whole sectors."""
_FORM: Final = "cluster_size=64k,extended_l2=on"
"""Clusters have 32 subclusters of 2 KiB, so a write of whole pages copies nothing from the base."""


def whole_sectors(size: int) -> int:
    """Return *size* rounded up to whole sectors, as QEMU shows a disk of that size."""
    return -(-size // SECTOR) * SECTOR


def create_image(path: Path, size: int) -> None:
    """Create an image for the writes to a disk of *size* bytes; CbtfsError if that fails.

    It has no backing name: the base is composed at each start, wherever the repository is then.
    """
    words = ("create", "-q", "-f", "qcow2", "-o", _FORM, str(path), str(whole_sectors(size)))
    _run(*words, what=f"create {path}")


def written_extents(path: Path) -> list[Extent]:
    """Return the extents of the disk that an image has: written, zeroed or discarded.

    Raises:
        DataCorrupt: the image is corrupt.
    """
    output = _run("map", "--output=json", "-f", "qcow2", str(path), what=f"read the map of {path}")
    try:
        return list(coalesce(_extent(item) for item in json.loads(output) if _is_written(item)))
    except (ValueError, KeyError, TypeError) as exc:
        raise DataCorrupt(
            f"cannot read the map of {printable(str(path))}: unexpected output of qemu-img"
        ) from exc


def _is_written(item: dict[str, object]) -> bool:
    # Without `present`, which older versions of QEMU lack, everything counts as written.
    return item["depth"] == 0 and item.get("present", True) is not False


def _extent(item: dict[str, object]) -> Extent:
    start, length = item["start"], item["length"]
    if not isinstance(start, int) or not isinstance(length, int):
        raise TypeError("extent")
    return Extent(start, length)


def find_qemu_img() -> str:
    """Return the path of qemu-img; UsageError if it is not installed."""
    program = process.find_program("qemu-img")
    if program is None:
        raise UsageError("overlays need the program qemu-img: install the package qemu-utils")
    return program


def _run(*arguments: str, what: str) -> str:
    try:
        done = process.run([find_qemu_img(), *arguments], _SECONDS)
    except (OSError, process.TimeoutExpired) as exc:
        raise CbtfsError(f"cannot {printable(what)}: {exc}") from exc
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2] or f"qemu-img ended with {done.returncode}"
        raise CbtfsError(f"cannot {printable(what)}: {printable(why)}")
    return done.stdout
