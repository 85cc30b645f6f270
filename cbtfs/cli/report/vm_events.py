"""Documents and lines of the events of `cbtfs watch`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cbtfs.core.moment import format_moment
from cbtfs.core.units import format_duration, format_size
from cbtfs.errors import CbtfsError, ExitCode

if TYPE_CHECKING:
    from cbtfs.ingest.vsphere.triggered import TriggeredCapture
    from cbtfs.source.vsphere.watch.follow import VmEvent


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the output, as a document and as text."""

    document: Mapping[str, Any]
    text: str


def line_of(event: VmEvent, moment: datetime) -> Line:
    """Return the line of an event that was received at *moment*."""
    when = format_moment(moment.replace(microsecond=0))
    document = {"event": event.kind, "time": when, **_vm(event), **event.members}
    name = f"{event.name}: " if event.vm is not None else ""
    return Line(document, f"{when} {name}{_words(event.kind, event.members)}")


def _vm(event: VmEvent) -> dict[str, Any]:
    if event.vm is None:
        return {}
    vm = event.vm
    return {"vm": event.name, "path": vm.path, "uuid": vm.identity, "moref": vm.id}


def _words(kind: str, members: Mapping[str, Any]) -> str:
    match kind:
        case "connected":
            number = members["vms"]
            return f"following {number} VM{'' if number == 1 else 's'} of {members['server']}"
        case "power":
            return f"power: {members['before']} -> {members['state']}"
        case "snapshot":
            return f"snapshot {members['action']}: {members['snapshot']}"
        case "migration":
            return "migrated: " + ", ".join(_moves(members))
        case "reconfiguration":
            return f"reconfigured: {', '.join(members['changed'])}"
        case "disk":
            return f"disk {members['action']}: {members['disk']}{_sizes(members)}"
        case "tracking":
            disks = f" of {', '.join(members['disks'])}" if members["disks"] else ""
            return f"change tracking{disks} {members['action']}"
        case _:
            return {"entered": "in view", "left": "no longer in view"}.get(kind, kind)


def _moves(members: Mapping[str, Any]) -> list[str]:
    moves = []
    if members["host_before"] is not None:
        moves.append(f"host {members['host_before']} -> {members['host']}")
    return moves + [
        f"{moved['file']} {moved['datastore_before']} -> {moved['datastore']}"
        for moved in members["moved"]
    ]


def _sizes(members: Mapping[str, Any]) -> str:
    sizes = [members["size_before"], members["size"]]
    known = [format_size(size) for size in sizes if size is not None]
    return f", {' -> '.join(known)}" if known else ""


def line_of_capture(capture: TriggeredCapture, moment: datetime) -> Line:
    """Return the line of a capture that ended at *moment*."""
    when, vm, result = format_moment(moment.replace(microsecond=0)), capture.vm, capture.result
    members: dict[str, Any] = {"reasons": list(capture.reasons)}
    seconds = round(capture.seconds, 3)
    if isinstance(result, CbtfsError):
        members |= {"point": None, "kind": None, "exit": int(result.exit_code)}
        members |= {"error": str(result), "warnings": [], "seconds": seconds}
        text = f"capture failed: {result}"
    else:
        code = ExitCode.DONE if result.is_whole else ExitCode.PARTIAL
        manifest = result.manifest
        omitted = [f"disk {left.disk} is omitted: {left.reason}" for left in result.left_out]
        members |= {"point": manifest.point, "kind": manifest.kind, "exit": int(code)}
        members |= {"error": None, "warnings": [*omitted, *result.warnings], "seconds": seconds}
        text = f"captured in {format_duration(capture.seconds)}: point {manifest.point}"
        text = f"{text}, {manifest.kind}"
    found = {"vm": vm.name, "path": vm.path, "uuid": vm.identity, "moref": vm.id}
    document = {"event": "capture", "time": when, **found, **members}
    return Line(document, f"{when} {vm.name}: {text}")
