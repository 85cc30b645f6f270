"""Output of ingests: a table per point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cbtfs.cli.report.output import report, report_table
from cbtfs.cli.report.points import kind_of
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from cbtfs.core.manifest import Manifest


def print_point(manifest: Manifest) -> None:
    """Print a point and its disks, unless --quiet is given."""
    report([f"point {manifest.point}: {manifest.vm.name}@{manifest.name}, {kind_of(manifest)}"])
    report_table(
        ("disk", "kind", "size", "read", "new", "stored", "reason"),
        [
            (
                disk.label,
                disk.method,
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
