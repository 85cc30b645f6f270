"""qcow2 overlays: one per restore point, for the peers of cbtfs."""

import os
from collections.abc import Sequence
from pathlib import Path

from tools.bench.content import BLOCK
from tools.bench.programs import run
from tools.bench.servers import qemu_exported


def overlay_of(backing: Path, overlay: Path, image: Path, changed: Sequence[int]) -> Path:
    """Create a qcow2 image over *backing* with the blocks *changed* of *image*; return its path."""
    backed = ["-b", backing.name, "-F", "qcow2"]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backed, overlay], folder=overlay.parent)
    with (
        qemu_exported(overlay, overlay.with_name("export"), is_writable=True) as export,
        image.open("rb") as source,
        export.open("r+b", buffering=0) as target,
    ):
        for block in changed:
            target.seek(block * BLOCK)
            target.write(os.pread(source.fileno(), BLOCK, block * BLOCK))
    return overlay


def thin_overlay(folder: Path, index: int, image: Path, changed: Sequence[int]) -> None:
    """Create the overlay of point *index* without opening the chain below it.

    The time to open a chain grows with its length.
    """
    aside, overlay = folder / "changed.raw", f"{index}.qcow2"
    with image.open("rb") as source, aside.open("wb") as file:
        file.truncate(os.fstat(source.fileno()).st_size)
        for block in changed:
            file.seek(block * BLOCK)
            file.write(os.pread(source.fileno(), BLOCK, block * BLOCK))
    script = (
        'qemu-img convert -O qcow2 "$0" "$2" && qemu-img rebase -u -f qcow2 -b "$1" -F qcow2 "$2"'
    )
    run(["sh", "-c", script, aside, f"{index - 1}.qcow2", overlay], folder=folder)
    aside.unlink()
