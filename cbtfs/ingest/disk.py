"""Take one disk of a restore point: plan, audit and capture it, and fall back to a full."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cbtfs.core.allocation import Allocation
from cbtfs.core.blockmap import Shape, Tree
from cbtfs.core.distrust import Distrust
from cbtfs.core.extent import Extent, clip, total, widen
from cbtfs.core.ids import Ref
from cbtfs.core.manifest import MAX_DISK_BYTES, DiskRecord, Vm
from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import ChunkMissing, DataCorrupt, UsageError
from cbtfs.ingest.allocation import (
    FullRead,
    carried,
    prove,
    read_everything,
    read_of_full,
    with_proof,
)
from cbtfs.ingest.audit import AuditedList, SampleAudit, audit_sample, audit_whole
from cbtfs.ingest.baseline import Baseline
from cbtfs.ingest.capture import Captured, CaptureOptions, capture
from cbtfs.ingest.checkpoints import Start
from cbtfs.ingest.discards import discarded
from cbtfs.ingest.distrust import (
    Misses,
    areas_with_data,
    find_distrust,
    warn_of_areas,
)
from cbtfs.ingest.inputs import DiskInput, PointOptions, no_progress
from cbtfs.ingest.plan import Plan, PlanOptions, make_plan, missed, whole
from cbtfs.reader import Reader
from cbtfs.source.base import DiskSource
from cbtfs.source.wrappers import CheckedSource
from cbtfs.store.distrust import Armed
from cbtfs.store.identity import new_disk_id
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter


@dataclass(frozen=True, slots=True)
class DiskContext:
    """Context that the disks of one point share: the repository, their VM, and the options."""

    repository: Repository
    objects: ObjectWriter
    vm: Vm
    options: PointOptions


def take_disk(context: DiskContext, disk: DiskInput, base: Baseline | None) -> DiskRecord:
    """Read *disk* into the repository and return its record for the manifest.

    Raises:
        SourceUnavailable, SourceMismatch, ChangeTrackingUnusable: see take_point().
        UsageError: the disk is too large.
    """
    source = CheckedSource(disk.source)
    if disk.kind == "file":
        options = replace(context.options, want="auto", audit=None, on_disk=no_progress)
        context = replace(context, options=options)
    if source.size > MAX_DISK_BYTES:
        raise UsageError(f"disk {printable(disk.label)} is larger than {MAX_DISK_BYTES} bytes")
    repository, options = context.repository, context.options
    lists_are_ours = base is None or base.is_content or disk.kind == "file"
    distrust = None if base is None or lists_are_ours else find_distrust(repository, base)
    plan = make_plan(
        source,
        base,
        PlanOptions(
            options.want,
            repository.findings.unreadable,
            distrust=distrust,
            is_audited=options.audit is not None
            or (distrust is not None and distrust.is_allocation),
        ),
    )
    if disk.checkpoints is not None:
        plan = disk.checkpoints.adopt(plan, options.want)
    block_size = repository.settings.block_size if base is None else base.disk.block_size
    shape = Shape(source.size, block_size)
    ingest = _DiskIngest(context, disk, source, shape, Reader(repository), distrust)
    try:
        return ingest.take(plan, base)
    except (ChunkMissing, DataCorrupt) as exc:
        if base is None:
            raise
        text = f"the point {base.point.manifest.point} is damaged: {exc}"
        plan = whole(Reason(FullReason.BASE_DAMAGED, text), options.want)
        return replace(ingest.read(plan, None, base), parent=None)


@dataclass(frozen=True, slots=True)
class _DiskIngest:
    """One disk of a point; the plan may change while it is taken."""

    context: DiskContext
    disk: DiskInput
    source: DiskSource
    shape: Shape
    reader: Reader
    distrust: Distrust | None
    """Record of an earlier run that change lists of this disk lack changes."""

    def take(self, plan: Plan, base: Baseline | None) -> DiskRecord:
        """Audit and capture the disk; replace *plan* by a full if the audit finds a mismatch."""
        if base is None:
            return self.read(plan, None, base)
        before = self.reader.disk(base.disk)
        tree = before.tree()
        if plan.listed is not None and not self.disk.lists_discards:
            gone = discarded(before, self.source.allocated(), self.shape.size)
            plan = plan.with_changes(list(gone))
        misses = self._misses(base)
        if self.distrust is not None and self.distrust.is_confirmed:
            # The run that wrote the record may have ended before it marked all points.
            misses.suspect(misses.reason(self.distrust.blocks), self.distrust.found)
        proof = self._prove(plan, tree, base)
        if proof is not None and proof.mismatches:
            reason = areas_with_data(proof.mismatches)
            plan = missed(plan, reason, self.context.options.want, FullReason.ALLOCATION)
            return self.read(plan, tree, base, proof)
        is_audited = self.context.options.audit is not None or misses.is_allocation
        if plan.listed is None or not is_audited:
            return self.read(plan, tree, base, proof)
        sample, source_list = None, plan.listed
        if plan.extents is not None and self.context.options.audit is not None:
            sample = self._audit_sample(plan, tree, misses)
            if sample.in_unproven:
                misses = replace(misses, is_allocation=True)
            if sample.mismatches:
                reason = misses.reason(sample.mismatches)
                code = FullReason.ALLOCATION if misses.is_allocation else FullReason.AUDIT
                plan = missed(plan, reason, self.context.options.want, code)
        record = self.read(plan, tree, base, proof)
        if plan.extents is None:
            ranges = list(widen(source_list, self.shape.block_size, self.shape.size))
            unproven = _unproven(base)
            audited = AuditedList(
                self.shape, tree, base.disk.size, ranges, unproven, self.reader.digester
            )
            return self._audited_whole(record, audited, misses, sample)
        return record if sample is None else replace(record, audit=sample.document())

    def _misses(self, base: Baseline, *, is_allocation: bool = False) -> Misses:
        context = self.context
        return Misses(
            context.repository,
            context.vm,
            self.disk.label,
            base,
            format_moment(context.options.moment),
            context.options.run,
            is_allocation or (self.distrust is not None and self.distrust.is_allocation),
        )

    def _prove(self, plan: Plan, tree: Tree[Ref], base: Baseline) -> Allocation | None:
        """Prove a share of the areas that no run has read; None if the run proves nothing.

        If an area has other content than the base, the points with such areas become suspect.
        """
        proving, allocation = self.context.options.proving, self._carried(plan, tree, base)
        if allocation is None or proving is None or self.disk.ask_allocation is None:
            return allocation
        misses = self._misses(base, is_allocation=True)
        with misses.armed() as armed:
            proof = prove(
                self.source,
                self.shape,
                allocation,
                tree,
                proving,
                armed.fire,
                self.reader.digester,
            )
            if proof.mismatches:
                suspect = self._record_misses(misses, armed, proof.mismatches)
                warn_of_areas(misses.vm, misses.label, proof.mismatches, suspect)
        return proof

    def _carried(self, plan: Plan, tree: Tree[Ref], base: Baseline) -> Allocation | None:
        """Return the record of the base without the areas that an incremental reads."""
        allocation = base.disk.allocation
        if allocation is None or plan.extents is None:
            return None
        listed = [] if self.disk.ask_allocation is None else self._to_read(plan.extents, tree)
        return carried(allocation, listed, base.disk.size, self.shape.size)

    def _audit_sample(self, plan: Plan, tree: Tree[Ref], misses: Misses) -> SampleAudit:
        """Audit a sample of the unchanged blocks; record mismatches and mark suspect points."""
        options, base = self.context.options, misses.base.disk
        assert options.audit is not None
        assert plan.extents is not None
        ranges, unproven = self._to_read(plan.extents, tree), _unproven(misses.base)
        audited = AuditedList(self.shape, tree, base.size, ranges, unproven, self.reader.digester)
        seed = f"{options.run}/{base.id}"
        with misses.armed() as armed:
            sample = audit_sample(self.source, audited, options.audit, seed, armed.fire)
            if sample.in_unproven:
                misses = replace(misses, is_allocation=True)
            if sample.mismatches:
                suspect = self._record_misses(misses, armed, sample.mismatches)
                misses.warn_of_sample(sample.mismatches, suspect)
        return sample

    def _record_misses(self, misses: Misses, armed: Armed, blocks: int) -> int:
        """Complete the record of missed blocks; return the number of points marked as suspect."""
        armed.count(blocks, is_allocation=misses.is_allocation)
        # If the disk itself changed meanwhile, the mismatch proves nothing about the points.
        self.source.confirm()
        armed.confirm()
        return misses.suspect(misses.reason(blocks))

    def _audited_whole(
        self,
        record: DiskRecord,
        audited: AuditedList,
        misses: Misses,
        sample: SampleAudit | None,
    ) -> DiskRecord:
        """Compare a disk that was read completely with its change list; return the new record."""
        self.context.objects.flush()  # the reader loads only objects in closed packs
        after = self.reader.disk(record).tree()
        if sample is not None:  # the sample had mismatches, which are recorded already
            scan = audit_whole(audited, after, lambda: None)
            blocks = max(scan.missed, sample.mismatches)
            misses.warn_of_scan(blocks, misses.suspect(misses.reason(blocks)))
            reason = misses.reason(blocks)
            return replace(record, reason=reason, audit=sample.document(scan.missed))
        with misses.armed() as armed:
            scan = audit_whole(audited, after, armed.fire)
            if scan.in_unproven:
                misses = replace(misses, is_allocation=True)
            if scan.missed:
                misses.warn_of_scan(scan.missed, self._record_misses(misses, armed, scan.missed))
        if self.distrust is not None:
            blocks = max(scan.missed, self.distrust.blocks or 0)
            code = FullReason.ALLOCATION if misses.is_allocation else FullReason.AUDIT
            record = replace(record, reason=misses.reason(blocks or None), full_reason=code)
        return replace(record, audit=scan.document())

    def read(
        self,
        plan: Plan,
        tree: Tree[Ref] | None,
        base: Baseline | None,
        proof: Allocation | None = None,
    ) -> DiskRecord:
        """Read the disk into the repository, and return its record for the manifest.

        Blocks are compared with *tree*, that of *base*; None: with nothing. *proof* is the record
        of areas that were never read, if the plan is an incremental, or the proof that failed.
        """
        if plan.extents is None:
            full = self._full(plan, base)
            extents, allocation = full.extents, with_proof(full.allocation, proof)
        else:
            extents, allocation = plan.extents, proof
        captured = self._capture(plan, self._to_read(extents, tree), tree, base)
        return DiskRecord(
            id=new_disk_id() if base is None else base.disk_id,
            identity=self.disk.identity,
            label=self.disk.label,
            kind=self.disk.kind,
            size=self.shape.size,
            block_size=self.shape.block_size,
            root=captured.root,
            data_blocks=captured.data_blocks,
            ingest=plan.kind,
            reason=plan.reason,
            full_reason=plan.full_reason,
            parent=None if base is None else base.point.manifest.point,
            change_id=self.disk.change_id,
            suspect=base.suspect if base is not None and plan.kind == "incremental" else None,
            allocation=allocation,
            counts=captured.counts,
        )

    def _full(self, plan: Plan, base: Baseline | None) -> FullRead:
        """Return what a full reads; mark points if a sample shows that the server is wrong."""
        ask, options = self.disk.ask_allocation, self.context.options
        if ask is None:
            return FullRead(self.source.allocated(), None)
        is_known_wrong = self.distrust is not None and self.distrust.is_allocation
        if is_known_wrong or plan.full_reason is FullReason.ALLOCATION:
            return read_everything(self.shape, "none")
        claim = ask()
        is_map_wrong = self.distrust is not None or plan.full_reason is FullReason.AUDIT
        if is_map_wrong and claim.method == "star":  # The answer comes from the change map.
            return read_everything(self.shape, claim.method)
        seed = f"{options.run}/{self.disk.identity}"
        full = read_of_full(self.source, self.shape, claim, options.proving, seed)
        if full.allocation is not None and full.allocation.mismatches:
            blocks = full.allocation.mismatches
            self.source.confirm()
            suspect = 0
            if base is not None:
                misses = self._misses(base, is_allocation=True)
                suspect = misses.suspect(areas_with_data(blocks))
            warn_of_areas(self.context.vm, self.disk.label, blocks, suspect)
        return full

    def _capture(
        self,
        plan: Plan,
        extents: list[Extent],
        tree: Tree[Ref] | None,
        base: Baseline | None,
    ) -> Captured:
        """Read *extents* into the repository; blocks are compared with *tree*, that of *base*."""
        start = Start(
            extents,
            None if plan.extents is None else tree,
            0 if base is None or tree is None else base.disk.data_blocks,
        )
        checkpoints, on_checkpoint = self.disk.checkpoints, None
        if checkpoints is not None:
            start = checkpoints.begin(plan, self.shape, start, self.reader)
            on_checkpoint = checkpoints.on_checkpoint(self.shape, start)
        captured = capture(
            self.source,
            CaptureOptions(self.shape, start.extents, start.base, start.data_blocks, tree),
            self.context.objects,
            self.context.options.on_disk(self.disk.label, total(start.extents)),
            on_checkpoint,
        )
        captured = start.whole(captured)
        if checkpoints is not None:
            checkpoints.finish(captured, self.shape)
        return captured

    def _to_read(self, extents: Sequence[Extent], tree: Tree[Ref] | None) -> list[Extent]:
        """Return *extents* and the corrupt blocks of the base: whole blocks, ascending."""
        if tree is not None:
            extents = [*extents, *self._in_quarantine(tree)]
        return list(widen(extents, self.shape.block_size, self.shape.size))

    def _in_quarantine(self, tree: Tree[Ref]) -> Iterator[Extent]:
        """Yield the blocks of the base with corrupt chunks; a read of these blocks repairs them."""
        if self.context.objects.has_bad:
            block = self.shape.block_size
            corrupt = (Extent(n * block, block) for n in tree.blocks_of(self._is_corrupt))
            yield from clip(corrupt, 0, self.shape.size)

    def _is_corrupt(self, ref: Ref) -> bool:
        return self.context.objects.is_bad(ref)


def _unproven(base: Baseline) -> Sequence[Extent]:
    """Return the areas of the base that no run has read."""
    allocation = base.disk.allocation
    return () if allocation is None else allocation.unproven
