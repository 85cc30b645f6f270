"""Taking over from a run that ended early: its snapshot, if that is still what it was.

The record of a dead run says what snapshot it took and how far it had captured it. The snapshot is
taken over only if it is exactly that one, nothing stands on it, and it would be taken in the same
way today; else it is removed like any other left by a dead run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from cbtfs.core.moment import format_moment
from cbtfs.core.progress import HeldDisk, HeldSnapshot, RunProgress, decode_progress
from cbtfs.core.reasons import Reason
from cbtfs.errors import DataCorrupt
from cbtfs.ingest.point import VmInput, bases_of
from cbtfs.ingest.vsphere.disk_selection import select_disks
from cbtfs.ingest.vsphere.options import IngestOptions
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts
from cbtfs.source.vsphere.inventory.machine import Machine, SnapshotEntry
from cbtfs.source.vsphere.snapshots.snapshot import Taken, load_taken
from cbtfs.store.repository import Repository
from cbtfs.store.runs import RunFacts, RunFolder

OLDEST_SECONDS: Final = 6 * 3600.0
"""A snapshot that is older is not taken over, where --max-snapshot-age says nothing: whoever runs
a backup wants a point of now, not of yesterday, and the delta disks have grown enough."""


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """A snapshot of a dead run that is taken over, and how far it is captured."""

    taken: Taken
    progress: RunProgress
    age: float
    """Seconds."""


class ResumeRefused(Exception):
    """Why a snapshot is not taken over."""


def held_snapshot(
    taken: Taken,
    disks: Sequence[DiskFacts],
    options: IngestOptions,
    untracked: Reason | None,
    repository: Repository,
    vm: VmInput,
) -> HeldSnapshot:
    """What a later run must find to be so, to take over."""
    bases = bases_of(repository, vm, [disk.identity for disk in disks])
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
    repository: Repository,
    session: Session,
    options: IngestOptions,
    vm: VmInput,
    machine: Machine,
    dead: Sequence[RunFacts],
) -> InterruptedRun | None:
    """The snapshot to resume from, of one of the *dead* runs; None if there are none.

    Raises:
        ResumeRefused: none of them can be resumed, with the reason.
    """
    if not dead:
        return None
    named = {facts.snapshot for facts in dead}
    standing = [entry for entry in machine.snapshots if entry.name in named]
    if not standing:
        raise ResumeRefused(
            "it does not exist: the run ended before it was taken, or it was removed"
        )
    left = _left_by([f for f in dead if f.snapshot in {e.name for e in standing}], repository)
    if not left:
        raise ResumeRefused("the run ended before it recorded progress, which it does every 10 s")
    if not options.resume:
        raise ResumeRefused("--no-resume was given")
    if len(standing) > 1:
        raise ResumeRefused("it is one of several")
    (entry,) = standing
    progress = max(left, key=lambda each: each.leaves)
    then = progress.snapshot
    others = [each for each in machine.snapshots if each is not entry]
    if (then.name, then.moref, then.created) != (entry.name, entry.id, _moment(entry)):
        raise ResumeRefused("it is not the one that the run took")
    if any(each.depth >= entry.depth for each in others):
        raise ResumeRefused("it is not the newest snapshot of the VM")
    if then.others != tuple(each.id for each in others):
        raise ResumeRefused("other snapshots of the VM came or went")
    oldest = OLDEST_SECONDS if options.max_snapshot_age is None else options.max_snapshot_age
    age = (session.now() - entry.created).total_seconds()
    if age >= oldest:
        raise ResumeRefused(f"it is older than {oldest:.0f} s")
    if then.is_quiesce_wanted != options.quiesce:
        raise ResumeRefused(f"it was taken with{'' if then.is_quiesce_wanted else 'out'} --quiesce")
    if machine.is_tracking != (then.untracked is None):
        raise ResumeRefused("change tracking was switched since")
    taken = load_taken(session, machine.snapshots, entry, then.consistency)
    chosen = select_disks(options, taken.disks).disks
    now = held_snapshot(taken, chosen, options, then.untracked_reason, repository, vm)
    _compare(then.disks, now.disks)
    return InterruptedRun(taken, progress, max(age, 0.0))


def _left_by(dead: Sequence[RunFacts], repository: Repository) -> list[RunProgress]:
    runs = RunFolder(repository.path)
    return [found for facts in dead if (found := _load(facts, runs)) is not None]


def _load(facts: RunFacts, runs: RunFolder) -> RunProgress | None:
    try:
        data = runs.load_progress(facts.run)
        found = None if data is None else decode_progress(data)
        if found is not None and (found.run, found.snapshot.name) != (facts.run, facts.snapshot):
            raise ValueError("it is of another run")
    except (DataCorrupt, ValueError) as exc:
        raise ResumeRefused(f"the record of what was captured is damaged: {exc}") from exc
    return found


def _compare(then: Sequence[HeldDisk], now: Sequence[HeldDisk]) -> None:
    if [disk.key for disk in then] != [disk.key for disk in now]:
        raise ResumeRefused("other disks are to be captured now")
    for before, after in zip(then, now, strict=True):
        if before.base != after.base:
            raise ResumeRefused("there is another point to compare with")
        if before != after:
            raise ResumeRefused(f"its disk {after.key} is another one")


def _moment(entry: SnapshotEntry) -> str:
    return format_moment(entry.created.astimezone(UTC))
