"""Take one disk of a restore point: plan, audit, capture, and what to do when one of them fails."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cbtfs.core.audit import Sampling
from cbtfs.core.blockmap import Shape, Tree
from cbtfs.core.distrust import Distrust
from cbtfs.core.extent import Extent, clip, total, widen
from cbtfs.core.ids import Ref
from cbtfs.core.manifest import MAX_DISK_BYTES, DiskKind, DiskRecord, Vm
from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import ChunkMissing, DataCorrupt, UsageError
from cbtfs.ingest.audit import OnMiss, SampleAudit, WholeAudit, audit_sample, audit_whole
from cbtfs.ingest.baseline import Baseline
from cbtfs.ingest.capture import Captured, CaptureOptions, Progress, capture
from cbtfs.ingest.checkpoints import DiskCheckpoints, Start
from cbtfs.ingest.discards import discarded
from cbtfs.ingest.distrust import Misses, find_distrust, missed_blocks
from cbtfs.ingest.plan import Plan, Want, make_plan, missed, whole
from cbtfs.reader import Reader
from cbtfs.source.base import DiskSource
from cbtfs.source.wrappers import CheckedSource
from cbtfs.store.distrust import Armed
from cbtfs.store.identity import new_disk_id
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter


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
    checkpoints: DiskCheckpoints | None = None
    """Where it is kept on record how far the disk is captured."""


Announce = Callable[[str, int], Progress]
"""Told the label of each disk and how many bytes will be read; returns who is told of progress."""


def silent(label: str, size: int) -> Progress:
    """Announce nothing."""
    return lambda count: None


@dataclass(frozen=True, slots=True)
class PointOptions:
    """What holds for all disks of a point that is taken."""

    vm: Vm
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
    options: PointOptions,
) -> DiskRecord:
    """What the point will say of *disk*, all of whose blocks are in *objects* then."""
    source = CheckedSource(disk.source)
    if disk.kind == "file":
        options = replace(options, want="auto", audit=None, announce=silent)
    if source.size > MAX_DISK_BYTES:
        raise UsageError(f"disk {printable(disk.label)} is larger than {MAX_DISK_BYTES} bytes")
    block = repository.settings.block_size if base is None else base.disk.block_size
    distrust = None if base is None or disk.kind == "file" else find_distrust(repository, base)
    plan = make_plan(
        source,
        base,
        options.want,
        repository.findings.unreadable,
        distrust=distrust,
        is_audited=options.audit is not None,
    )
    if disk.checkpoints is not None:
        plan = disk.checkpoints.adopt(plan, options.want)
    shape = Shape(source.size, block)
    reader = Reader(repository)
    run = _DiskIngest(
        repository, objects, source, shape, disk.label, options, reader, disk.checkpoints, distrust
    )
    try:
        return run.take(disk, plan, base)
    except (ChunkMissing, DataCorrupt) as exc:
        if base is None:
            raise
        text = f"the point {base.point.manifest.point} is damaged: {exc}"
        plan = whole(Reason(FullReason.BASE_DAMAGED, text), options.want)
        record = run.record(disk, plan, base, run.capture(plan, None, None))
        return replace(record, parent=None)


@dataclass(frozen=True, slots=True)
class _DiskIngest:
    """What stays the same when a disk has to be captured in another way after all."""

    repository: Repository
    objects: ObjectWriter
    source: DiskSource
    shape: Shape
    label: str
    options: PointOptions
    reader: Reader
    checkpoints: DiskCheckpoints | None
    distrust: Distrust | None
    """The record of an earlier run that forbids trust in the disk's list."""

    def take(self, disk: DiskInput, plan: Plan, base: Baseline | None) -> DiskRecord:
        """The disk as *plan* has it, or read whole where an audit shows that to be needed."""
        if base is None:
            return self.record(disk, plan, base, self.capture(plan, None, base))
        before = self.reader.disk(base.disk)
        tree = before.tree()
        if plan.listed is not None and not disk.lists_discards:
            gone = discarded(before, self.source.allocated(), self.shape.size)
            plan = plan.with_changes(list(gone))
        misses = self._misses(base)
        if self.distrust is not None and self.distrust.is_confirmed:
            # The run that recorded this may have ended before it marked all points.
            misses.suspect(missed_blocks(self.distrust.blocks), self.distrust.found)
        if plan.listed is None or self.options.audit is None:
            return self.record(disk, plan, base, self.capture(plan, tree, base))
        sample, source_list = None, plan.listed
        if plan.extents is not None:
            sample = self._audit_sample(plan, tree, misses, self.options.audit)
            if sample.mismatches:
                plan = missed(plan, missed_blocks(sample.mismatches), self.options.want)
        record = self.record(disk, plan, base, self.capture(plan, tree, base))
        if plan.extents is None:
            return self._audited_whole(record, source_list, tree, misses, sample)
        return record if sample is None else replace(record, audit=sample.document())

    def _misses(self, base: Baseline) -> Misses:
        options = self.options
        moment = format_moment(options.moment)
        return Misses(self.repository, options.vm, self.label, base, moment, options.run)

    def _audit_sample(
        self, plan: Plan, tree: Tree[Ref], misses: Misses, sampling: Sampling
    ) -> SampleAudit:
        """A sample's audit; what it finds is recorded and the points in doubt are marked."""
        listed, base = self._wanted(plan, tree), misses.base.disk
        seed = f"{self.options.run}/{base.id}"
        with misses.armed() as armed:
            sample = audit_sample(
                self.source, self.shape, tree, base.size, listed, sampling, seed, armed.fire
            )
            if sample.mismatches:
                suspect = self._found(misses, armed, sample.mismatches)
                misses.warn_of_sample(sample.mismatches, suspect)
        return sample

    def _found(self, misses: Misses, armed: Armed, blocks: int) -> int:
        """Complete the record of what was found, and mark points; how many are suspect for it."""
        armed.count(blocks)
        self.source.confirm()  # what a disk held that changed meanwhile accuses no point
        armed.confirm()
        return misses.suspect(missed_blocks(blocks))

    def _audited_whole(
        self,
        record: DiskRecord,
        listed: Sequence[Extent],
        tree: Tree[Ref],
        misses: Misses,
        sample: SampleAudit | None,
    ) -> DiskRecord:
        """*record* of a disk that was read whole, with what its list lacks of what is new in it."""
        self.objects.flush()  # what is compared must be there to be loaded
        after = self.reader.disk(record).tree()
        ranges = list(widen(listed, self.shape.block_size, self.shape.size))

        def audit(on_miss: OnMiss) -> WholeAudit:
            return audit_whole(tree, after, ranges, self.shape, misses.base.disk.size, on_miss)

        if sample is not None:  # it found some, and that is on record
            whole = audit(lambda: None)
            found = max(whole.missed, sample.mismatches)
            misses.warn_of_scan(found, misses.suspect(missed_blocks(found)))
            return replace(record, reason=missed_blocks(found), audit=sample.document(whole.missed))
        with misses.armed() as armed:
            whole = audit(armed.fire)
            if whole.missed:
                misses.warn_of_scan(whole.missed, self._found(misses, armed, whole.missed))
        if self.distrust is not None:
            found = max(whole.missed, self.distrust.blocks or 0)
            record = replace(
                record, reason=missed_blocks(found or None), full_reason=FullReason.AUDIT
            )
        return replace(record, audit=whole.document())

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
            full_reason=plan.full_reason,
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
        on_checkpoint = None
        if self.checkpoints is not None:
            start = self.checkpoints.begin(plan, self.shape, start, self.reader)
            on_checkpoint = self.checkpoints.on_checkpoint(self.shape, start)
        captured = capture(
            self.source,
            CaptureOptions(self.shape, start.wanted, start.base, start.data_blocks, tree),
            self.objects,
            self.options.announce(self.label, total(start.wanted)),
            on_checkpoint,
        )
        captured = start.whole(captured)
        if self.checkpoints is not None:
            self.checkpoints.finish(captured, self.shape)
        return captured

    def _wanted(self, plan: Plan, tree: Tree[Ref] | None) -> list[Extent]:
        """What is read, in whole blocks."""
        extents = self.source.allocated() if plan.extents is None else plan.extents
        if tree is not None:
            extents = [*extents, *self._in_quarantine(tree)]
        return list(widen(extents, self.shape.block_size, self.shape.size))

    def _in_quarantine(self, tree: Tree[Ref]) -> Iterator[Extent]:
        """Blocks of the base whose chunks are known to be bad: what they hold is stored anew."""
        if self.objects.has_bad:
            block = self.shape.block_size
            found = (Extent(n * block, block) for n in tree.blocks_of(self._is_bad))
            yield from clip(found, 0, self.shape.size)

    def _is_bad(self, ref: Ref) -> bool:
        return self.objects.is_bad(ref.digest)
