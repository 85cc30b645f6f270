"""Find an interrupted run whose snapshot can be captured further.

The record of a run names its snapshot and the progress of the capture. The run is resumed only if
the VM still has exactly that snapshot, as its newest, and if a run would take it in the same way
today. Otherwise the snapshot is removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.core.moment import format_moment
from cbtfs.core.progress import HeldDisk, HeldSnapshot, RunProgress, decode_progress
from cbtfs.core.reasons import Reason
from cbtfs.errors import DataCorrupt
from cbtfs.ingest.point import bases_of
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.disk_selection import select_disks
from cbtfs.ingest.vsphere.options import IngestOptions
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import Machine, SnapshotEntry
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot import Taken, load_taken
from cbtfs.store.runs import RunFacts, RunFolder

MAX_AGE_SECONDS: Final = 6 * 3600.0
"""Maximum age of a snapshot to resume from, without --max-snapshot-age: a point should show the VM
as it is now, not as it was yesterday, and delta disks must not grow for longer."""


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """An interrupted run that is resumed: its snapshot, and the progress of the capture."""

    taken: Taken
    progress: RunProgress
    age: float
    """Age of the snapshot, in seconds."""


class ResumeRefused(Exception):
    """Raised when a run cannot be resumed; the text is the reason."""


def held_snapshot(
    taken: Taken,
    disks: Sequence[DiskFacts],
    bases: Mapping[str, PointId | None],
    options: IngestOptions,
    untracked: Reason | None,
) -> HeldSnapshot:
    """Return the facts that must be the same when a later run resumes from the snapshot.

    *bases* are the bases of the disks by identity. *untracked* is the reason why changes are not
    tracked; None if they are.
    """
    return HeldSnapshot(
        name=taken.entry.name,
        moref=taken.entry.id,
        created=_moment(taken.entry),
        is_quiesce_wanted=options.quiesce,
        consistency=taken.quiesce,
        untracked=None if untracked is None else untracked.text,
        untracked_code=None if untracked is None else untracked.code,
        others=tuple(entry.id for entry in taken.others),
        disks=tuple(
            HeldDisk(
                disk.key,
                disk.identity,
                disk.path,
                disk.root,
                disk.size,
                disk.uuid,
                disk.change_id,
                bases[disk.identity],
            )
            for disk in disks
        ),
    )


def find_interrupted(
    context: IngestContext, vm: ListedVm, machine: Machine, stale: Sequence[RunFacts]
) -> InterruptedRun | None:
    """Return the one of the *stale* runs to resume; None without stale runs.

    Raises:
        ResumeRefused: none of them can be resumed.
    """
    if not stale:
        return None
    options, session = context.options, context.session
    names = {facts.snapshot for facts in stale}
    entries = [entry for entry in machine.snapshots if entry.name in names]
    if not entries:
        raise ResumeRefused(
            "it does not exist: the run ended before it was taken, or it was removed"
        )
    existing = {entry.name for entry in entries}
    runs = RunFolder(context.repository.path)
    left = _load_all([facts for facts in stale if facts.snapshot in existing], runs)
    if not left:
        raise ResumeRefused("the run ended before it recorded progress, which it does every 10 s")
    if not options.resume:
        raise ResumeRefused("--no-resume was given")
    if len(entries) > 1:
        raise ResumeRefused("it is one of several")
    (entry,) = entries
    progress = max(left, key=lambda progress: progress.leaves)
    then = progress.snapshot
    others = [other for other in machine.snapshots if other is not entry]
    if (then.name, then.moref, then.created) != (entry.name, entry.id, _moment(entry)):
        raise ResumeRefused("it is not the one that the run took")
    if any(other.depth >= entry.depth for other in others):
        raise ResumeRefused("it is not the newest snapshot of the VM")
    if then.others != tuple(other.id for other in others):
        raise ResumeRefused("other snapshots of the VM were added or removed")
    max_age = MAX_AGE_SECONDS if options.max_snapshot_age is None else options.max_snapshot_age
    age = (session.now() - entry.created).total_seconds()
    if age >= max_age:
        raise ResumeRefused(f"it is older than {max_age:.0f} s")
    if then.is_quiesce_wanted != options.quiesce:
        raise ResumeRefused(f"it was taken with{'' if then.is_quiesce_wanted else 'out'} --quiesce")
    if machine.is_tracking != (then.untracked is None):
        raise ResumeRefused("change tracking was enabled or disabled since")
    taken = load_taken(session, machine.snapshots, entry, then.consistency)
    disks = select_disks(options, taken.disks).disks
    identities = [disk.identity for disk in disks]
    bases = bases_of(context.repository, context.input_of(vm), identities)
    now = held_snapshot(taken, disks, bases, options, then.untracked_reason)
    _compare(then.disks, now.disks)
    return InterruptedRun(taken, progress, max(age, 0.0))


def _load_all(stale: Sequence[RunFacts], runs: RunFolder) -> list[RunProgress]:
    loaded = (_load(facts, runs) for facts in stale)
    return [progress for progress in loaded if progress is not None]


def _load(facts: RunFacts, runs: RunFolder) -> RunProgress | None:
    try:
        data = runs.load_progress(facts.run)
        if data is None:
            return None
        progress = decode_progress(data)
        if (progress.run, progress.snapshot.name) != (facts.run, facts.snapshot):
            raise ValueError("it is of another run")
    except (DataCorrupt, ValueError) as exc:
        raise ResumeRefused(f"the record of its progress is damaged: {exc}") from exc
    return progress


def _compare(then: Sequence[HeldDisk], now: Sequence[HeldDisk]) -> None:
    if [disk.key for disk in then] != [disk.key for disk in now]:
        raise ResumeRefused("other disks are to be captured now")
    for before, after in zip(then, now, strict=True):
        if before.base != after.base:
            raise ResumeRefused(f"the base of disk {after.key} is another point")
        if before != after:
            raise ResumeRefused(f"disk {after.key} has changed")


def _moment(entry: SnapshotEntry) -> str:
    return format_moment(entry.created.astimezone(UTC))
