"""Output of ingests: a progress bar per disk, and a table per point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cbtfs.cli.report.output import Advance, print_lines, print_table, progress
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from cbtfs.core.manifest import Manifest
    from cbtfs.ingest.inputs import OnDisk


@contextmanager
def disk_bars(*, is_wanted: bool) -> Iterator[OnDisk]:
    """Show a progress bar for the current disk."""
    with ExitStack() as bar:

        def on_disk(label: str, size: int) -> Advance:
            bar.close()
            return bar.enter_context(progress(label, size, is_wanted=is_wanted))

        yield on_disk


def print_point(manifest: Manifest) -> None:
    """Print a point and its disks."""
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
