"""The slices of a point in the output of `show`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cbtfs.core.filenames import SLICES
from cbtfs.core.units import format_size
from cbtfs.errors import CbtfsError
from cbtfs.views.slices import slices_of
from cbtfs.volumes.slices import Omitted, Slices

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.listing import Point
    from cbtfs.reader import Reader


@dataclass(frozen=True, slots=True)
class SliceReport:
    """The slices of a point, or the reason why they are unknown."""

    point: Point
    slices: Slices

    def documents(self) -> Document:
        """Return the members of the document of `show`."""
        disks = self.point.manifest.disks
        return {
            "slices": [
                {
                    "path": "/".join((SLICES, *slice_.path)),
                    "size": slice_.size,
                    "disks": [disks[number].label for number in sorted(slice_.disks)],
                }
                for slice_ in self.slices.shown
            ],
            "omitted_slices": [
                {"name": omitted.name, "reason": omitted.reason} for omitted in self.slices.omitted
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield lines for a terminal."""
        for slice_ in self.slices.shown:
            yield f"slice {'/'.join((SLICES, *slice_.path))}"
            yield f"  size     {slice_.size} bytes, {format_size(slice_.size)}"
        for omitted in self.slices.omitted:
            yield f"no slice {omitted.name}: {omitted.reason}"


def slice_report(reader: Reader, point: Point) -> SliceReport:
    """Return the slices of a point. Damage is a reason in the report, and not an error."""
    try:
        return SliceReport(point, slices_of(reader, point.manifest))
    except CbtfsError as exc:
        return SliceReport(point, Slices(omitted=(Omitted(SLICES, str(exc)),)))
