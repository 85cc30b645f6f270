"""The table of `cbtfs list`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cbtfs.cli.report.names import SHORT_ID
from cbtfs.cli.report.table import (
    Column,
    Reduction,
    fitting_lines,
    printable_cells,
    shortened,
)
from cbtfs.core.moment import parse_moment
from cbtfs.core.units import format_size

if TYPE_CHECKING:
    from datetime import tzinfo

    from cbtfs.core.manifest import DiskRecord, Manifest, ReadMethod
    from cbtfs.listing import Point

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_NOTHING: Final = "-"
_CUT: Final = (16, 10)
"""Widths of lists of disks and tags on narrow terminals."""
_METHODS: Final[Sequence[ReadMethod]] = ("full", "scan", "incremental")
_ABBREVIATIONS: Final = {"full": "full", "scan": "scan", "incremental": "incr"}
_REDUCTIONS: Final[Sequence[Reduction]] = (
    ("name", None),
    ("data", None),
    ("time", 1),
    ("size", None),
    ("read", None),
    ("kind", 1),
    ("vm", 1),
    ("tags", 1),
    ("disks", 1),
    ("kind", 2),
    ("stored", None),
    ("tags", 2),
    ("disks", 2),
    ("disks", None),
    ("tags", None),
    ("proof", None),
    ("time", 2),
    ("kind", None),
    ("state", None),
    ("time", 3),
)
"""What becomes shorter or is omitted, one after the other, on a narrow terminal. Names of VMs and
ids are always whole."""


@dataclass(frozen=True, slots=True)
class ListedPoint:
    """A point of the list, and its states."""

    point: Point
    states: Sequence[str]


def list_lines(points: Sequence[ListedPoint], zone: tzinfo, width: int | None) -> Iterator[str]:
    """Yield the lines of the list: a header, and a line for each point, at most *width* wide."""
    yield from fitting_lines(list(_columns(points, zone)), _REDUCTIONS, width, heading="vm")


def _columns(points: Sequence[ListedPoint], zone: tzinfo) -> Iterator[Column]:
    manifests = [listed.point.manifest for listed in points]
    disks = [manifest.of_kind("disk") for manifest in manifests]

    def column(name: str, *variants: Sequence[str], is_right: bool = False) -> Column:
        return Column(name, [printable_cells(cells) for cells in variants], is_right)

    def sizes(name: str, size_of: Callable[[DiskRecord], int]) -> Column:
        cells = [format_size(sum(map(size_of, point_disks))) for point_disks in disks]
        return column(name, cells, is_right=True)

    yield column(
        "vm",
        [vm_then_and_now(listed.point) for listed in points],
        [listed.point.vm_label or listed.point.manifest.vm.name for listed in points],
    )
    times = [_times(manifest.time, zone) for manifest in manifests]
    yield column("time", *([forms[variant] for forms in times] for variant in range(4)))
    yield column(
        "kind",
        list(map(_kind_with_reasons, disks)),
        ["+".join(_methods(point_disks)) or _NOTHING for point_disks in disks],
        [
            "+".join(_ABBREVIATIONS[m] for m in _methods(point_disks)) or _NOTHING
            for point_disks in disks
        ],
    )
    yield column(
        "disks",
        *_with_cuts([",".join(disk.label for disk in point_disks) for point_disks in disks]),
    )
    yield sizes("size", lambda disk: disk.size)
    yield sizes("data", lambda disk: disk.data_bytes)
    yield sizes("read", lambda disk: disk.counts.read_bytes)
    stored = [sum(disk.counts.stored_bytes for disk in manifest.disks) for manifest in manifests]
    yield column("stored", list(map(format_size, stored)), is_right=True)
    if any(listed.states for listed in points):
        yield column("state", [",".join(listed.states) or _NOTHING for listed in points])
    proofs = [_proof(listed.point) for listed in points]
    if any(proof != _NOTHING for proof in proofs):
        yield column("proof", proofs)
    tags = [",".join(listed.point.state.tags) for listed in points]
    if any(tags):
        yield column("tags", *_with_cuts(tags))
    yield column("name", [manifest.name for manifest in manifests])
    yield column("point", [manifest.point[:SHORT_ID] for manifest in manifests])


def _proof(point: Point) -> str:
    """Return the level that the point passed, and whether the next one failed."""
    proof = point.state.proof
    if proof is None:
        return _NOTHING
    level = "-" if proof.level is None else f"L{proof.level}"
    return level if proof.failure is None else f"{level} failed"


def vm_then_and_now(point: Point) -> str:
    """Return the present name of the VM, and the name at the time of capture if it differs."""
    label, then = point.vm_label, point.manifest.vm.name
    if label is None or label == then or label.startswith(f"{then}~"):
        return label or then
    return f"{label} (was {then})"


def time_in_zone(time: str, zone: tzinfo) -> str:
    """Return a time of a document in *zone*, e.g. `Sun 2026-11-22 01:15:03 CET`."""
    return _times(time, zone)[0]


def _times(time: str, zone: tzinfo) -> tuple[str, str, str, str]:
    """Return a time in *zone*, from long to short, e.g. `Sun 2026-11-22 01:15:03 CET`."""
    moment = _in_zone(parse_moment(time), zone)
    day, name = _DAYS[moment.weekday()], moment.tzname() or moment.strftime("%z")
    date, minutes = moment.date().isoformat(), f"{moment:%H:%M}"
    return (
        f"{day} {date} {moment:%H:%M:%S} {name}",
        f"{day} {date} {minutes} {name}",
        f"{date} {minutes}",
        date,
    )


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except (OverflowError, ValueError):  # the first or last day of the calendar
        return moment.astimezone(UTC)


def _with_cuts(cells: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield *cells*, and these cut to each of the shorter widths."""
    shown = [cell or _NOTHING for cell in printable_cells(cells)]
    yield shown
    for width in _CUT:
        yield [shortened(cell, width) for cell in shown]


def _methods(disks: Sequence[DiskRecord]) -> list[ReadMethod]:
    """Return how the disks were read: one method, or several if disks differ."""
    used = {disk.method for disk in disks}
    return [method for method in _METHODS if method in used]


def kind_of(manifest: Manifest) -> str:
    """Return how the disks of a point were read: `full`, `scan` or `incremental`, or several."""
    return "+".join(_methods(manifest.of_kind("disk"))) or manifest.kind


def _kind_with_reasons(disks: Sequence[DiskRecord]) -> str:
    """Return how each disk was read, with reasons, e.g. `scan: no list`."""
    by_disk = {disk.label: how_read(disk) for disk in disks}
    if len(set(by_disk.values())) == 1:
        return next(iter(by_disk.values()))
    return ", ".join(f"{label} {how}" for label, how in by_disk.items()) or _NOTHING


def how_read(disk: DiskRecord) -> str:
    """Return how a disk was read: `incremental`, `full`, or `scan` with its reason."""
    if disk.method != "scan" or disk.full_reason is None:
        return disk.method
    return f"scan: {disk.full_reason.replace('_', ' ')}"
