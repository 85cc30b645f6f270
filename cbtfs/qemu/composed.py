"""Writable disks as block nodes of QEMU: an image with the writes over a raw file. Pure.

The options are those of qemu-storage-daemon and of QEMU itself.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ComposedDisk:
    """A qcow2 image, which names no base, over the raw file of a point."""

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
