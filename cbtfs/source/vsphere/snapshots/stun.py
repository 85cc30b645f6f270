"""Stun a running VM, so that change tracking begins or ends.

A snapshot without memory is created and removed at once (VDDK Programming Guide, "Enable CBT"). The
creation is the stun and the snapshot is never read, so any process may remove it at any time. A
process that is killed before the removal needs no record: the name identifies the snapshot.
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
    SnapshotSpec,
    consolidate,
    make_snapshot,
    remove_named,
    settle,
    sweep,
    translate_create_faults,
)
from cbtfs.store.identity import new_id

log = logging.getLogger(__name__)

_PREFIX: Final = "cbtfs-stun-"
_OURS: Final = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}\Z")
_RUN: Final = re.compile(r"cbtfs-[0-9a-f]{8}-[0-9a-f]{32}\Z")
_DESCRIPTION: Final = (
    "created by cbtfs to stun the VM, so that change tracking begins or ends; "
    "it may be removed at any time"
)


def stun(session: Session, vm: Any, is_stopped: Callable[[], bool]) -> str | None:
    """Stun the VM; return why its disks still need consolidation, None if they do not."""
    name = f"{_PREFIX}{new_id()}"
    spec = SnapshotSpec(name, _DESCRIPTION)
    try:
        translate_create_faults(lambda: make_snapshot(session, vm, spec, is_stopped))
    except BaseException:
        try:
            remove_named(session, vm, name)
        except CbtfsError as exc:
            log.warning("the snapshot %s could not be removed: %s", name, exc)
        raise
    remove_named(session, vm, name)
    return consolidate(session, vm)


def left_by_stuns(snapshots: Iterable[SnapshotEntry]) -> list[str]:
    """Return the names of stun snapshots; their process was killed or will remove them."""
    return [entry.name for entry in snapshots if _OURS.match(entry.name)]


def without_stuns(machine: Machine) -> Machine:
    """Return the VM as it is without the stun snapshots of killed processes."""
    left = left_by_stuns(machine.snapshots)
    if not left:
        return machine
    return replace(
        machine,
        snapshots=tuple(entry for entry in machine.snapshots if entry.name not in left),
        disks=tuple(replace(disk, links=max(1, disk.links - len(left))) for disk in machine.disks),
    )


def of_a_run(name: str) -> bool:
    """Return whether the name is that of a snapshot of `ingest vsphere`, of any repository."""
    return _RUN.match(name) is not None


def is_own(name: str) -> bool:
    """Return whether the name is that of a snapshot of cbtfs, of any run or stun."""
    return of_a_run(name) or _OURS.match(name) is not None


def sweep_stuns(session: Session, vm: Any) -> tuple[str, ...]:
    """Remove the stun snapshots of killed processes, also pending ones; return their names."""
    settle(session, vm)
    snapshots = load_snapshots(session, vm)
    swept = sweep(session, vm, snapshots, left_by_stuns(snapshots))
    if swept.removed:
        consolidate(session, vm)
    return swept.removed


def whose(name: str) -> str:
    """Return the owner of a snapshot, according to its name, and how to get it removed."""
    if _OURS.match(name):
        return "left by a 'cbtfs cbt' that was killed: 'cbtfs cbt enable' removes it"
    if of_a_run(name):
        return (
            "of a run of 'cbtfs ingest vsphere': wait for its end; if it was killed, run it again "
            "on the same repository, which removes the snapshot"
        )
    return "not of cbtfs: remove it, or ask its owner to remove it"
