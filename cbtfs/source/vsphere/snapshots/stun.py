"""A stun of a running machine, on which change tracking begins or ends.

A snapshot without memory is made and removed at once (VDDK Programming Guide, "Enable CBT").
Nothing is ever read through it, and all that it is for has happened when it is there: whoever finds
one may remove it, even while its maker lives. So a maker that is killed in between needs no record,
and its snapshot is known by its name alone.
"""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from cbtfs.errors import CbtfsError
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.machine import Machine, SnapshotEntry, load_snapshots
from cbtfs.source.vsphere.snapshots.snapshot import (
    consolidate,
    make_snapshot,
    remove_named,
    settle,
    sweep,
    with_meaning,
)
from cbtfs.store.identity import new_id

log = logging.getLogger(__name__)

_PREFIX: Final = "cbtfs-stun-"
_OURS: Final = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}\Z")
_RUN: Final = re.compile(r"cbtfs-[0-9a-f]{8}-[0-9a-f]{32}\Z")
_DESCRIPTION: Final = (
    "made by cbtfs to stop the VM for a moment, so that change tracking begins or ends; "
    "it holds nothing and may be removed at any time"
)


def stun(session: Session, vm: Any, is_stopped: Callable[[], bool]) -> str | None:
    """Stun the VM; return what is left to be done about its disks, or None."""
    name = f"{_PREFIX}{new_id()}"
    try:
        with_meaning(lambda: make_snapshot(session, vm, name, _DESCRIPTION, False, is_stopped))
    except BaseException:
        try:
            remove_named(session, vm, name)
        except CbtfsError as exc:
            log.warning("the snapshot %s is left behind: %s", name, exc)
        raise
    remove_named(session, vm, name)
    return consolidate(session, vm)


def left_by_stuns(snapshots: Iterable[SnapshotEntry]) -> list[str]:
    """Return the names of stun snapshots, whose process was killed or is about to remove them."""
    return [entry.name for entry in snapshots if _OURS.match(entry.name)]


def without_stuns(machine: Machine) -> Machine:
    """Return the VM as it is without the stun snapshots of killed processes."""
    left = left_by_stuns(machine.snapshots)
    if not left:
        return machine
    return replace(
        machine,
        snapshots=tuple(each for each in machine.snapshots if each.name not in left),
        disks=tuple(replace(disk, links=max(1, disk.links - len(left))) for disk in machine.disks),
    )


def of_a_run(name: str) -> bool:
    """Return whether `ingest vsphere` of any repository made a snapshot of that name."""
    return _RUN.match(name) is not None


def sweep_stuns(session: Session, vm: Any) -> tuple[str, ...]:
    """Remove the stun snapshots of killed processes, also pending ones; return their names."""
    settle(session, vm)
    snapshots = load_snapshots(session, vm)
    swept = sweep(session, vm, snapshots, left_by_stuns(snapshots))
    if swept.removed:
        consolidate(session, vm)
    return swept.removed


def whose(name: str) -> str:
    """Return the owner of a snapshot, as far as its name shows it, and what to do about it."""
    if _OURS.match(name):
        return "left by a 'cbtfs cbt' that was killed: 'cbtfs cbt enable' removes it"
    if of_a_run(name):
        return (
            "of a run of 'cbtfs ingest vsphere': let that end, or run it again on the same "
            "repository, which removes what a killed run left"
        )
    return "not of cbtfs: remove it, or let who made it do so"
