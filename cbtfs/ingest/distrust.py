"""React to a change list that lacks changes: a durable record, suspect points, warnings.

The record is written first, before the source confirms the disk and before points are marked.
Whatever ends the run after that, the next run does not trust change lists of the disk. A false
record costs one full scan; a lost record costs a wrong restore point.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cbtfs.core.distrust import Distrust
from cbtfs.core.manifest import Vm
from cbtfs.core.names import printable
from cbtfs.ingest.baseline import Baseline, newest_order
from cbtfs.ingest.suspect_points import suspect_since_full, suspect_unproven
from cbtfs.store.distrust import Armed
from cbtfs.store.repository import Repository

log = logging.getLogger(__name__)


def find_distrust(repository: Repository, base: Baseline) -> Distrust | None:
    """Return the record in effect that distrusts change lists since *base*, or None."""
    record = repository.distrust.load(base.disk.id)
    if record is None:
        return None
    order = base.point.manifest.order
    if record.covers(order, is_full=base.disk.ingest == "full"):
        return record
    if record.trusted_from is None:
        # A run ended between the commit of a full scan and the update of the record.
        repository.distrust.settle(base.disk.id, order)
    return None


def reason_of(record: Distrust) -> str:
    """Return the reason of the full that a record causes."""
    if record.found is None:
        return "change tracking missed blocks, according to a damaged record"
    what = areas_with_data if record.is_allocation else missed_blocks
    return f"{what(record.blocks)} at {record.found}, and no full scan followed"


def missed_blocks(blocks: int | None) -> str:
    """Return the start of the reason of an audit; *blocks* is None if the number is unknown."""
    return f"change tracking missed {'blocks' if blocks is None else f'{blocks} blocks'}"


def areas_with_data(blocks: int | None) -> str:
    """Return the reason if areas that no run had read have other content; None: unknown number."""
    count = "blocks" if blocks is None else f"{blocks} blocks"
    return f"the server called {count} unallocated that hold data"


def warn_of_areas(vm: Vm, label: str, blocks: int, suspect: int) -> None:
    """Warn about areas that the server wrongly called unallocated."""
    log.warning(
        "VM %s, disk %s: %s; the whole disk is read, and %d of its points are suspect ('cbtfs "
        "list'): capture this VM with --allocation none",
        printable(vm.name),
        printable(label),
        areas_with_data(blocks),
        suspect,
    )


@dataclass(frozen=True, slots=True)
class Misses:
    """Handles the blocks that the change list of one disk missed."""

    repository: Repository
    vm: Vm
    label: str
    base: Baseline
    moment: str
    """The moment that the disk shows: RFC 3339, UTC."""
    run: str
    """ID of the run."""
    is_allocation: bool = False
    """The blocks are in areas that the server called unallocated."""

    @contextmanager
    def armed(self) -> Iterator[Armed]:
        """Prepare a record that fire() puts into effect, even on a full disk."""
        base, distrust = self.base, self.repository.distrust
        allocation = base.disk.allocation
        known = distrust.load(base.disk.id)
        # Above all points: *base* may be an older one that the user named, and a full after it is
        # no full scan since the find.
        order = max(base.point.manifest.order, newest_order(self.repository, self.vm.id))
        armed = distrust.arm(
            Distrust(
                disk=base.disk.id,
                base=base.point.manifest.point,
                order=order if known is None else max(order, known.order),
                change_id=base.disk.change_id,
                run=self.run,
                found=self.moment,
                # Until the blocks are counted, they may be in areas that no run has read.
                is_allocation=self.is_allocation
                or (allocation is not None and bool(allocation.unproven)),
            )
        )
        try:
            yield armed
        finally:
            armed.disarm()

    def reason(self, blocks: int | None) -> str:
        """Return the start of the reason for missed blocks; None: unknown number."""
        return areas_with_data(blocks) if self.is_allocation else missed_blocks(blocks)

    def suspect(self, reason: str, moment: str | None = None) -> int:
        """Mark the points that may be wrong; return their number."""
        text = f"disk {printable(self.label)}: {reason}, detected at {moment or self.moment}"
        points = suspect_since_full(self.repository, self.vm.id, self.base, text)
        if self.is_allocation:
            points += suspect_unproven(self.repository, self.vm.id, self.base.disk.id, text)
        return len(set(points))

    def warn_of_sample(self, blocks: int, suspect: int) -> None:
        """Warn about mismatches in a sample, before the full scan."""
        self._warn(f"{self.reason(blocks)} in the sample of the audit", suspect)

    def warn_of_scan(self, blocks: int, suspect: int) -> None:
        """Warn about missed blocks that the full scan found."""
        self._warn(f"{self.reason(blocks)}, according to the full scan", suspect)

    def _warn(self, text: str, suspect: int) -> None:
        vm = printable(self.vm.name)
        is_vsphere = self.vm.vcenter is not None
        advice = (
            f"run 'cbtfs cbt reset' for {vm}" if is_vsphere else "check what writes the change list"
        )
        log.warning(
            "VM %s, disk %s: %s; %d of its points are suspect ('cbtfs list'): %s",
            vm,
            printable(self.label),
            text,
            suspect,
            advice,
        )
