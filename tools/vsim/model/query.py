"""QueryChangedDiskAreas of a machine. Arguments are checked in the order in which hosts do it."""

from tools.vsim.fault import Fault, invalid_argument
from tools.vsim.knobs import CbtKnobs
from tools.vsim.model.changes import Page, changed_spans, cut_page
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.model.span import Span
from tools.vsim.model.tracking import ChangeMap

EVERYTHING = "*"


def query_changes(
    machine: SimulatedMachine, snapshot: Snapshot | None, key: int, offset: int, change_id: str
) -> Page:
    """Return one page of a snapshot's disk.

    Without *snapshot*, the page describes the live disk of a machine that is off.
    """
    if snapshot is None:
        disk = machine.disk(key)
        if machine.is_on:
            raise invalid_argument("snapshot")
        if disk is None:
            raise invalid_argument("deviceKey")
        disk.settle(machine.cbt_of(disk))
        spec, path = disk.spec, disk.path()
        tracked = disk.tracker.freeze() if disk.tracker else None
    else:
        state = snapshot.disk(key)
        if state is None:
            raise invalid_argument("deviceKey")
        disk, spec = state.disk, state.spec
        path, tracked = disk.path(state.link), state.tracked
    knobs = machine.cbt_of(disk)
    if not 0 <= offset < spec.size:
        raise invalid_argument("startOffset")
    stale = Fault("vim.fault.FileFault", f"Error caused by file {host_path(path)}")
    stale.fields["file"] = host_path(path)
    if tracked is None or (change_id == EVERYTHING and knobs.star == "fault"):
        raise stale
    if change_id == EVERYTHING and knobs.star == "whole":
        return cut_page([Span(0, spec.size)], offset, spec.size, knobs)
    since = 0 if change_id == EVERYTHING else _sequence(change_id, tracked, knobs, stale)
    spans = changed_spans(tracked, since, spec.size, knobs)
    if disk.skewed:
        spans = [Span(span.start // 2, span.start // 2 + span.length) for span in spans]
    return cut_page(spans, offset, spec.size, knobs)


def _sequence(change_id: str, tracked: ChangeMap, knobs: CbtKnobs, stale: Fault) -> int:
    """Return the sequence number of a change ID of *tracked*; raises *stale* or InvalidArgument."""
    epoch, slash, number = change_id.rpartition("/")
    if not slash or not number.isdecimal():
        raise stale if knobs.bad_id == "FileFault" else invalid_argument("changeId")
    if epoch == tracked.epoch and 1 <= int(number) <= tracked.sequence:
        return int(number)
    if knobs.ignore_stale:
        return 0
    raise stale


def host_path(path: str) -> str:
    """Return the host's path of '[datastore] directory/file', as fault messages show it."""
    datastore, _, name = path.partition("] ")
    return f"/vmfs/volumes/{datastore.removeprefix('[')}/{name}"
