"""Restore of one disk to an image format of QEMU, by `qemu-img convert` from a mounted raw file."""

import os
import re
import selectors
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import DiskRecord
from cbtfs.errors import TargetFailed, UsageError
from cbtfs.reader import Reader
from cbtfs.restore.disk import plain_class, refuse_inside
from cbtfs.restore.image import Loss, pieces
from cbtfs.restore.target import new_file_by_program, refuse_existing
from cbtfs.store.repository import Repository

_POLL_SECONDS: Final = 0.2
"""Interval at which *advance* is called, which may raise to stop the conversion."""
_PERCENT: Final = re.compile(rb"\((\d+\.\d+)/100%\)")
"""Progress of qemu-img convert -p."""
_NBD: Final = re.compile(r"nbds?(\+[a-z]+)?:")


@dataclass(frozen=True, slots=True)
class MountedDisk:
    """The raw file of a disk in a mount."""

    path: Path
    has_failed_reads: Callable[[], bool]
    """Returns whether a read of the mount failed."""


def refuse_target(target: str) -> None:
    """Raise UsageError unless *target* can be a new file."""
    if target == "-":
        raise UsageError("--to and TARGET - are mutually exclusive: name a new file")
    if _NBD.match(target):
        raise UsageError(f"{target} is an NBD export: --to writes new files only, name one")
    path = Path(target)
    if not path.is_dir():
        refuse_existing(path)


def find_qemu_img() -> str:
    """Return the path of qemu-img; UsageError if it is not installed."""
    program = process.find_program("qemu-img")
    if program is None:
        raise UsageError("--to needs the program qemu-img: install the package qemu-utils")
    return program


def convert_disk(
    repository: Repository,
    point: PointId,
    disk: DiskRecord,
    mounted: MountedDisk,
    target: Path,
    image_format: str,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a disk to the new file *target* in *image_format*, a name of QEMU.

    The caller holds a lease on the point. *advance* receives bytes of data, as a part of
    `disk.data_bytes` that qemu-img reports; it is also called with 0.

    Raises:
        UsageError: *target* exists, or the format cannot hold the disk.
        ChunkMissing: data is missing.
        DataCorrupt: data is corrupt.
        TargetFailed: qemu-img failed for another reason.
    """
    if image_format == "vmdk" and disk.size == 0:
        raise UsageError(
            f"disk {disk.label} has 0 bytes: QEMU makes no VMDK of it; use --to qcow2 or vhdx"
        )
    refuse_inside(repository.path, target)
    qemu_img = find_qemu_img()
    with new_file_by_program(target) as made, tempfile.TemporaryFile() as errors:
        convert = ["convert", "-p", "-f", "raw", "-O", image_format]
        # Absolute paths: in other names QEMU takes the text before a colon for a protocol.
        command = process.ends_with_parent([qemu_img, *convert, mounted.path, made.absolute()])
        with process.start(
            command, stdout=process.PIPE, stderr=errors, start_new_session=True
        ) as child:
            try:
                _follow(child, disk.data_bytes, advance)
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            loss = first_loss(repository, disk) if mounted.has_failed_reads() else None
            if loss is not None:
                raise plain_class(loss)(
                    f"disk {disk.label} of point {point}: {loss}; without --to, --keep-going "
                    "restores the rest"
                ) from loss
            why = text or f"it ended with code {child.returncode}"
            raise TargetFailed(f"cannot write {target}: qemu-img failed: {why}")


def _follow(child: process.Popen[bytes], total: int, advance: Callable[[int], None]) -> None:
    """Report the progress of qemu-img until it closes its standard output."""
    assert child.stdout is not None
    done = 0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            advance(0)
            if not selector.select(_POLL_SECONDS):
                continue
            text = os.read(child.stdout.fileno(), 4096)
            if not text:
                break
            for percent in _PERCENT.findall(text):
                now = int(total * float(percent) / 100)
                advance(max(now - done, 0))
                done = max(now, done)


def first_loss(repository: Repository, disk: DiskRecord) -> Loss | None:
    """Return the error of the first unreadable extent of a disk, or None."""
    reader = Reader(repository, cache_bytes=0)
    losses = (piece.loss for piece in pieces(reader, disk, lambda *_: None))
    return next((loss for loss in losses if loss is not None), None)
