"""How one disk is to be captured, and why so: a change list is a hint, this is who doubts it."""

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
"""What the user allows: whatever is right, only a full, or only an incremental."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one disk is captured, and why so."""

    kind: IngestKind
    reason: str
    extents: Sequence[Extent] | None
    """What to read; None for the whole disk."""
    listed: Sequence[Extent] | None = None
    """All that may differ from the base if the source's list can be believed; None without one."""
    full_reason: FullReason | None = None
    """Code of *reason* for a full; None for an incremental."""

    def __post_init__(self) -> None:
        if (self.kind == "full") != (self.full_reason is not None):
            raise ValueError(f"a {self.kind} plan with the reason code {self.full_reason}")

    def with_changes(self, found: Sequence[Extent]) -> "Plan":
        """The same, where *found* has changed too, listed or not."""
        if self.listed is None or not found:
            return self
        extents = None if self.extents is None else [*self.extents, *found]
        return replace(self, extents=extents, listed=[*self.listed, *found])


def make_plan(
    source: DiskSource,
    base: Baseline | None,
    want: Want,
    unreadable: Sequence[str],
    *,
    distrust: Distrust | None = None,
    is_audited: bool = False,
) -> Plan:
    """What to read of *source*.

    *unreadable* tells of manifests that cannot be read: one of them may be this disk's newest.
    *distrust* is the record that an earlier audit left. A full scan that was asked for, or that
    such a record demands, has the list only to be audited. ChangeTrackingUnusable if it takes a
    whole read and *want* forbids that, SourceMismatch if it takes one for *distrust*.
    """
    if base is None:
        return whole(Reason(FullReason.FIRST, "first restore point of this disk"), want)
    if base.is_missing:
        newest = base.point.manifest
        text = (
            f"compared by digest: the manifest of this disk's newest point, {newest.name} "
            f"({newest.point}), is missing"
        )
        return whole(Reason(FullReason.BASE_MISSING, text), want)
    if want == "full":
        plan = whole(Reason(FullReason.ASKED_FOR, "a full was asked for"), want)
        return replace(plan, listed=_listed(source, base)) if is_audited else plan
    if distrust is not None:
        listed = _listed(source, base) if is_audited and want != "incremental" else None
        return missed(Plan("incremental", "", None, listed), reason_of(distrust), want)
    if unreadable:
        text = f"compared by digest: {unreadable[0]}, it may be this disk's newest"
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


def missed(plan: Plan, reason: str, want: Want) -> Plan:
    """*plan* for a disk whose list is known to lack changes; SourceMismatch if fulls are forbidden.

    Not ChangeTrackingUnusable: the source gave a list, and it is not what the disk says.
    """
    if want == "incremental":
        raise SourceMismatch(f"{reason}: run without --incremental-only, to read the whole disk")
    return Plan("full", reason, None, plan.listed, FullReason.AUDIT)


def whole(reason: Reason, want: Want) -> Plan:
    """A plan to read everything; ChangeTrackingUnusable where that is forbidden."""
    if want == "incremental":
        raise ChangeTrackingUnusable(
            f"the whole disk would have to be read ({reason}): run without --incremental-only"
        )
    return Plan("full", reason.text, None, full_reason=reason.code)


def to_read(source: DiskSource, changed: Sequence[Extent], base: Baseline) -> list[Extent]:
    """What an incremental must read: changes, what was added, and the blocks of both ends.

    Where the size changed, the block that held the old end held padding, and the one that holds
    the new end held bytes that are gone: both are read whatever the list says. Of what was added
    only the allocated part is read: the rest is known to be zeros, and so is what is not there.
    """
    size, before, block = source.size, base.disk.size, base.disk.block_size
    found = list(changed)
    if size != before:
        for end in (size, before):
            start = (end - 1) // block * block if end else 0
            found += clip([Extent(start, block)], 0, size)
    if size > before:
        found += intersect([Extent(before, size - before)], source.allocated())
    return list(coalesce(found))
