"""Plan the capture of one disk: the extents to read, and the reason if it is a full.

A change list is a hint. Any doubt about it makes the plan a full.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cbtfs.core.distrust import Distrust
from cbtfs.core.extent import Extent, clip, coalesce, intersect
from cbtfs.core.manifest import IngestKind
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.errors import ChangeTrackingUnusable, SourceMismatch
from cbtfs.ingest.baseline import Baseline
from cbtfs.ingest.distrust import reason_of
from cbtfs.source.base import ChangeTrackingInvalid, DiskSource

Want = Literal["auto", "full", "incremental"]
"""Kind of ingest that the user allows: any, only a full, or only an incremental."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The extents to read from one disk, with the reason."""

    kind: IngestKind
    reason: str
    extents: Sequence[Extent] | None
    """Extents to read; None for the whole disk."""
    listed: Sequence[Extent] | None = None
    """Extents that may differ from the base according to the source; None without a list."""
    full_reason: FullReason | None = None
    """Code of *reason* for a full; None for an incremental."""

    def __post_init__(self) -> None:
        if (self.kind == "full") != (self.full_reason is not None):
            raise ValueError(f"a {self.kind} plan with the reason code {self.full_reason}")

    def with_changes(self, changes: Sequence[Extent]) -> "Plan":
        """Return the plan with *changes* added to the list and to the extents to read."""
        if self.listed is None or not changes:
            return self
        extents = None if self.extents is None else [*self.extents, *changes]
        return replace(self, extents=extents, listed=[*self.listed, *changes])


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Facts about a disk that decide on its plan, beside its source and base."""

    want: Want = "auto"
    unreadable: Sequence[str] = ()
    """Descriptions of unreadable manifests: one of them may be the newest point of the disk."""
    distrust: Distrust | None = None
    """Record of an earlier audit that change lists of this disk lack changes."""
    is_audited: bool = False
    """Whether the change list is audited: then a full needs the list too."""


def make_plan(source: DiskSource, base: Baseline | None, options: PlanOptions) -> Plan:
    """Plan the capture of *source*.

    Raises:
        ChangeTrackingUnusable: a full is needed, and options.want forbids it.
        SourceMismatch: a full is needed because of options.distrust, and options.want forbids it.
    """
    want = options.want
    if base is None:
        return whole(Reason(FullReason.FIRST, "first restore point of this disk"), want)
    if base.refusal is not None:
        text = f"compared by digest: {base.refusal}"
        return whole(Reason(base.refusal.code, text), want)
    if base.is_missing:
        newest = base.point.manifest
        text = (
            f"compared by digest: the manifest of this disk's newest point, {newest.name} "
            f"({newest.point}), is missing"
        )
        return whole(Reason(FullReason.BASE_MISSING, text), want)
    if want == "full":
        plan = whole(Reason(FullReason.ASKED_FOR, "a full was requested"), want)
        return replace(plan, listed=_listed(source, base)) if options.is_audited else plan
    if options.distrust is not None:
        is_used = options.is_audited and want != "incremental"
        listed = _listed(source, base) if is_used else None
        code = FullReason.ALLOCATION if options.distrust.is_allocation else FullReason.AUDIT
        plan = Plan("incremental", "", None, listed)
        return missed(plan, reason_of(options.distrust), want, code)
    if options.unreadable and not base.is_named:
        text = f"compared by digest: {options.unreadable[0]}, which may be this disk's newest"
        return whole(Reason(FullReason.BASE_DAMAGED, text), want)
    try:
        changed = source.changed(base.since)
    except ChangeTrackingInvalid as exc:
        return whole(Reason(exc.code, f"compared by digest: {exc}"), want)
    extents = to_read(source, changed, base)
    return Plan("incremental", f"changes since {base.point.manifest.name}", extents, extents)


def _listed(source: DiskSource, base: Baseline) -> Sequence[Extent] | None:
    try:
        return to_read(source, source.changed(base.since), base)
    except ChangeTrackingInvalid:
        return None


def missed(plan: Plan, reason: str, want: Want, code: FullReason = FullReason.AUDIT) -> Plan:
    """Return a full in place of *plan*, because the change list or the base lacks blocks.

    Raises:
        SourceMismatch: *want* forbids a full. Not ChangeTrackingUnusable: there is a list, but it
            contradicts the disk.
    """
    if want == "incremental":
        raise SourceMismatch(f"{reason}: run without --incremental-only, to read the whole disk")
    return Plan("full", reason, None, plan.listed, code)


def whole(reason: Reason, want: Want) -> Plan:
    """Return a full without a change list; ChangeTrackingUnusable if *want* forbids it."""
    if want == "incremental":
        raise ChangeTrackingUnusable(
            f"the whole disk would have to be read ({reason}): run without --incremental-only"
        )
    return Plan("full", reason.text, None, full_reason=reason.code)


def to_read(source: DiskSource, changed: Sequence[Extent], base: Baseline) -> list[Extent]:
    """Return the extents that an incremental reads: changes, growth, and the blocks at both ends.

    If the size changed, two blocks are read whatever the list says: the block at the old end
    contained padding, and the block at the new end contained bytes that no longer exist. Of the
    added space only the allocated part is read; the rest is zeros.
    """
    size, before, block = source.size, base.disk.size, base.disk.block_size
    extents = list(changed)
    if size != before:
        for end in (size, before):
            start = (end - 1) // block * block if end else 0
            extents += clip([Extent(start, block)], 0, size)
    if size > before:
        extents += intersect([Extent(before, size - before)], source.allocated())
    return list(coalesce(extents))
