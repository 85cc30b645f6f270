"""Take one disk of a restore point: plan, audit, capture, and what to do when one of them fails."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cbtfs.core.audit import Sampling
from cbtfs.core.blockmap import Shape, Tree
from cbtfs.core.extent import Extent, clip, complement, total, widen
from cbtfs.core.ids import Ref, VmId
from cbtfs.core.manifest import MAX_DISK_BYTES, DiskKind, DiskRecord
from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable
from cbtfs.errors import ChunkMissing, DataCorrupt, UsageError
from cbtfs.ingest.audit import SampleAudit, audit_sample, audit_whole
from cbtfs.ingest.baseline import Baseline
from cbtfs.ingest.capture import Captured, Progress, capture
from cbtfs.ingest.marks import DiskMarks, Start
from cbtfs.ingest.plan import Plan, Want, make_plan, missed, whole
from cbtfs.ingest.suspicion import suspect_since_full
from cbtfs.reader import Reader
from cbtfs.source.base import DiskSource
from cbtfs.source.wrappers import CheckedSource
from cbtfs.store.identity import new_disk_id
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DiskInput:
    """One disk to capture."""

    label: str
    source: DiskSource
    identity: str
    """What tells this disk from the VM's others across runs."""
    kind: DiskKind = "disk"
    """A small file of the VM is read whole and not announced."""
    change_id: str | None = None
    """The source's token for the moment that it shows."""
    lists_discards: bool = True
    """Its list of changes has what a guest discarded. Where that is not known, blocks that the
    source has no data for and the base has are changes as well."""
    marks: DiskMarks | None = None
    """Where it is kept on record how far the disk is captured."""


Announce = Callable[[str, int], Progress]
"""Told the label of each disk and how many bytes will be read; returns who is told of progress."""


def silent(label: str, size: int) -> Progress:
    """Announce nothing."""
    return lambda count: None


@dataclass(frozen=True, slots=True)
class Orders:
    """What holds for all disks of a point that is taken."""

    vm: VmId
    moment: datetime
    run: str
    want: Want
    audit: Sampling | None
    """How lists of changes are put to the test; None: they are not."""
    announce: Announce


def take_disk(
    repository: Repository,
    objects: ObjectWriter,
    disk: DiskInput,
    base: Baseline | None,
    orders: Orders,
) -> DiskRecord:
    """What the point will say of *disk*, all of whose blocks are in *objects* then."""
    source = CheckedSource(disk.source)
    if disk.kind == "file":
        orders = replace(orders, want="auto", audit=None, announce=silent)
    if source.size > MAX_DISK_BYTES:
        raise UsageError(f"disk {printable(disk.label)} is larger than {MAX_DISK_BYTES} bytes")
    block = repository.settings.block_size if base is None else base.disk.block_size
    plan = make_plan(
        source,
        base,
        orders.want,
        repository.findings.unreadable,
        is_audited=orders.audit is not None,
    )
    if disk.marks is not None:
        plan = disk.marks.adopt(plan, orders.want)
    shape = Shape(source.size, block)
    reader = Reader(repository)
    run = _Run(repository, objects, source, shape, disk.label, orders, reader, disk.marks)
    try:
        return run.take(disk, plan, base)
    except (ChunkMissing, DataCorrupt) as exc:
        if base is None:
            raise
        plan = whole(f"the point {base.point.manifest.point} is damaged: {exc}", orders.want)
        record = run.record(disk, plan, base, run.capture(plan, None, None))
        return replace(record, parent=None)


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same when a disk has to be captured in another way after all."""

    repository: Repository
    objects: ObjectWriter
    source: DiskSource
    shape: Shape
    label: str
    orders: Orders
    reader: Reader
    marks: DiskMarks | None

    def take(self, disk: DiskInput, plan: Plan, base: Baseline | None) -> DiskRecord:
        """The disk as *plan* has it, or read whole where an audit shows that to be needed."""
        tree = None if base is None else self.reader.disk(base.disk).tree()
        if tree is not None and plan.told is not None and not disk.lists_discards:
            plan = plan.with_changes(list(self._discarded(tree)))
        if base is None or tree is None or plan.told is None or self.orders.audit is None:
            return self.record(disk, plan, base, self.capture(plan, tree, base))
        sample, told = None, plan.told
        if plan.extents is not None:
            sample = self._audit_sample(plan, tree, base, self.orders.audit)
            if sample.mismatches:
                reason = _reason(sample.mismatches)
                self._suspect(base, reason)
                plan = missed(plan, reason, self.orders.want)
        record = self.record(disk, plan, base, self.capture(plan, tree, base))
        if plan.extents is None:
            return self._audited_whole(record, told, tree, base, sample)
        return record if sample is None else replace(record, audit=sample.document())

    def _audit_sample(
        self, plan: Plan, tree: Tree[Ref], base: Baseline, sampling: Sampling
    ) -> SampleAudit:
        listed = self._wanted(plan, tree)
        seed = f"{self.orders.run}/{base.disk.id}"
        return audit_sample(self.source, self.shape, tree, base.disk.size, listed, sampling, seed)

    def _audited_whole(
        self,
        record: DiskRecord,
        told: Sequence[Extent],
        tree: Tree[Ref],
        base: Baseline,
        sample: SampleAudit | None,
    ) -> DiskRecord:
        """*record* of a disk that was read whole, with what its list lacks of what is new in it."""
        self.objects.flush()  # what is compared must be there to be loaded
        after = self.reader.disk(record).tree()
        listed = list(widen(told, self.shape.block_size, self.shape.size))
        whole = audit_whole(tree, after, listed, self.shape, base.disk.size)
        if sample is not None:
            found = max(whole.missed, sample.mismatches)
            return replace(record, reason=_reason(found), audit=sample.document(whole.missed))
        if whole.missed:
            self._suspect(base, _reason(whole.missed))
        return replace(record, audit=whole.document())

    def _suspect(self, base: Baseline, reason: str) -> None:
        """Mark what may be wrong, at once: whatever becomes of this run, that is known now."""
        self.source.confirm()  # what a disk held that changed meanwhile is evidence of nothing
        label, moment = printable(self.label), format_moment(self.orders.moment)
        text = f"disk {label}: {reason}, seen at {moment}"
        found = suspect_since_full(self.repository, self.orders.vm, base, text)
        log.warning("disk %s: %s; points that are suspect for it: %d", label, reason, len(found))

    def record(
        self, disk: DiskInput, plan: Plan, base: Baseline | None, captured: Captured
    ) -> DiskRecord:
        """What the point says of the disk once it is captured."""
        return DiskRecord(
            id=new_disk_id() if base is None else base.disk.id,
            identity=disk.identity,
            label=disk.label,
            kind=disk.kind,
            size=self.shape.size,
            block_size=self.shape.block_size,
            root=captured.root,
            data_blocks=captured.data_blocks,
            ingest=plan.kind,
            reason=plan.reason,
            parent=None if base is None else base.point.manifest.point,
            change_id=disk.change_id,
            suspect=base.suspect if base is not None and plan.kind == "incremental" else None,
            counts=captured.counts,
        )

    def capture(self, plan: Plan, tree: Tree[Ref] | None, base: Baseline | None) -> Captured:
        """The disk into the repository, compared with the *tree* of its *base*."""
        start = Start(
            self._wanted(plan, tree),
            None if plan.extents is None else tree,
            0 if base is None else base.disk.data_blocks,
        )
        reached = None
        if self.marks is not None:
            start = self.marks.begin(plan, self.shape, start, self.reader)
            reached = self.marks.reached(self.shape, start)
        captured = capture(
            self.source,
            self.shape,
            start.wanted,
            start.base,
            start.data_blocks,
            tree,
            self.objects,
            self.objects.level,
            self.orders.announce(self.label, total(start.wanted)),
            reached,
        )
        captured = start.whole(captured)
        if self.marks is not None:
            self.marks.finish(captured, self.shape)
        return captured

    def _wanted(self, plan: Plan, tree: Tree[Ref] | None) -> list[Extent]:
        """What is read, in whole blocks."""
        extents = self.source.allocated() if plan.extents is None else plan.extents
        if tree is not None:
            extents = [*extents, *self._in_quarantine(tree)]
        return list(widen(extents, self.shape.block_size, self.shape.size))

    def _discarded(self, tree: Tree[Ref]) -> Iterator[Extent]:
        """Blocks of the base that hold data and of which the disk has none now: they are zeros."""
        block, size = self.shape.block_size, self.shape.size
        runs = [
            (
                -(-hole.start // block),
                -(-hole.end // block) if hole.end == size else hole.end // block,
            )
            for hole in complement(self.source.allocated(), size)
        ]
        found = tree.data_blocks_in([(first, end) for first, end in runs if first < end])
        return clip((Extent(n * block, block) for n in found), 0, size)

    def _in_quarantine(self, tree: Tree[Ref]) -> Iterator[Extent]:
        """Blocks of the base whose chunks are known to be bad: what they hold is stored anew."""
        if self.objects.has_bad:
            block = self.shape.block_size
            found = (Extent(n * block, block) for n in tree.blocks_of(self._is_bad))
            yield from clip(found, 0, self.shape.size)

    def _is_bad(self, ref: Ref) -> bool:
        return self.objects.is_bad(ref.digest)


def _reason(blocks: int) -> str:
    return f"change tracking missed {blocks} blocks"
