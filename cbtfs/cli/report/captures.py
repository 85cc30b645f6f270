"""What ingests show: a bar while a disk is read, a point when it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cbtfs.cli.report.output import Advance, print_lines, print_table, progress
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from cbtfs.core.manifest import Manifest
    from cbtfs.ingest.point import Announce


@contextmanager
def disk_bars(*, is_wanted: bool) -> Iterator[Announce]:
    """A progress bar for the disk at hand."""
    with ExitStack() as bar:

        def announce(label: str, size: int) -> Advance:
            bar.close()
            return bar.enter_context(progress(label, size, is_wanted=is_wanted))

        yield announce


def print_point(manifest: Manifest) -> None:
    """A point and its disks, for the user."""
    print_lines([f"point {manifest.point}: {manifest.vm.name}@{manifest.name}, {manifest.kind}"])
    print_table(
        ("disk", "kind", "size", "read", "new", "stored", "reason"),
        [
            (
                disk.label,
                disk.ingest,
                format_size(disk.size),
                format_size(disk.counts.read_bytes),
                format_size(disk.counts.new_bytes),
                format_size(disk.counts.stored_bytes),
                disk.reason,
            )
            for disk in manifest.of_kind("disk")
        ],
        right=("size", "read", "new", "stored"),
    )
