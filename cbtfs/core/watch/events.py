"""Events of a watched VM: the differences between two states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cbtfs.core.watch.facts import DiskFact, Hardware, SnapshotTree, VmFacts

OFF: Final = "poweredOff"
_SETTINGS: Final = ("name", "notes", "guest", "version")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a VM. Its kind and members are a contract: docs/commands.md."""

    kind: str
    vm: str
    """The managed object id."""
    members: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_trigger(self) -> bool:
        """Whether `--capture` takes a point after this event."""
        match self.kind:
            case "snapshot":
                return bool(self.members["action"] == "taken")
            case "power":
                return bool(self.members["state"] == OFF)
            case _:
                return self.kind in ("reconfiguration", "disk")


def differences(
    vm: str, old: VmFacts, new: VmFacts, hosts: Mapping[str, str], *, is_own: bool
) -> Iterator[Event]:
    """Yield the events between two states of a VM, without changes that cbtfs made.

    *hosts* has the names of hosts by id. *is_own* states that cbtfs reconfigured the VM; it only
    changes the tracking and the version of the hardware.
    """
    if _differ(old.power, new.power):
        yield Event("power", vm, {"state": new.power, "before": old.power})
    if old.snapshots is not None and new.snapshots is not None:
        yield from _snapshots(vm, old.snapshots, new.snapshots)
    yield from _migration(vm, old, new, hosts)
    yield from _reconfiguration(vm, old, new, is_own=is_own)
    if old.hardware is not None and new.hardware is not None:
        yield from _disks(vm, old.hardware, new.hardware)
    if not is_own:
        yield from _tracking(vm, old, new)


def _differ(old: Any, new: Any) -> bool:
    """Return whether both are known and differ."""
    return old is not None and new is not None and old != new


def _snapshots(vm: str, old: SnapshotTree, new: SnapshotTree) -> Iterator[Event]:
    before = {entry.id: entry for entry in old.entries}
    after = {entry.id: entry for entry in new.entries}
    actions = [("removed", entry) for entry in old.entries if entry.id not in after]
    actions += [("taken", entry) for entry in new.entries if entry.id not in before]
    actions += [
        ("renamed", entry)
        for entry in new.entries
        if entry.id in before and before[entry.id].name != entry.name
    ]
    if old.current != new.current and old.current in after and new.current in before:
        actions.append(("reverted", after[new.current]))
    for action, entry in actions:
        if not entry.is_own:
            yield Event(
                "snapshot", vm, {"action": action, "snapshot": entry.name, "snapshot_id": entry.id}
            )


def _migration(vm: str, old: VmFacts, new: VmFacts, hosts: Mapping[str, str]) -> Iterator[Event]:
    """Yield an event if the VM runs on another host, or if files of it moved."""
    moved: list[tuple[str, str, str]] = []
    if old.home is not None and new.home is not None and old.home != new.home:
        moved.append(("configuration", old.home, new.home))
    for before, after in _kept_disks(old.hardware, new.hardware):
        if before.datastore != after.datastore:
            moved.append((after.label, before.datastore, after.datastore))
    has_moved = _differ(old.host, new.host)
    if not has_moved and not moved:
        return
    yield Event(
        "migration",
        vm,
        {
            "host": _name(new.host, hosts),
            "host_before": _name(old.host, hosts) if has_moved else None,
            "moved": [
                {"file": file, "datastore": store, "datastore_before": earlier}
                for file, earlier, store in moved
            ],
        },
    )


def _name(host: str | None, hosts: Mapping[str, str]) -> str | None:
    return None if host is None else hosts.get(host, host)


def _reconfiguration(vm: str, old: VmFacts, new: VmFacts, *, is_own: bool) -> Iterator[Event]:
    changed = [name for name in _SETTINGS if _differ(getattr(old, name), getattr(new, name))]
    if is_own:
        changed = [name for name in changed if name != "version"]
    if old.hardware is not None and new.hardware is not None:
        before, after = dict(old.hardware.settings), dict(new.hardware.settings)
        changed += sorted(
            name for name in {**before, **after} if before.get(name) != after.get(name)
        )
    changed += [
        f"mode of {after.label}"
        for before, after in _kept_disks(old.hardware, new.hardware)
        if before.mode != after.mode
    ]
    if changed:
        yield Event("reconfiguration", vm, {"changed": changed})


def _kept_disks(old: Hardware | None, new: Hardware | None) -> Iterator[tuple[DiskFact, DiskFact]]:
    """Yield the disks that both states have."""
    if old is None or new is None:
        return
    before = {disk.identity: disk for disk in old.disks}
    for disk in new.disks:
        if disk.identity in before:
            yield before[disk.identity], disk


def _disks(vm: str, old: Hardware, new: Hardware) -> Iterator[Event]:
    before = {disk.identity for disk in old.disks}
    after = {disk.identity for disk in new.disks}
    for disk in old.disks:
        if disk.identity not in after:
            yield _disk(vm, "removed", disk, disk.size, None)
    for disk in new.disks:
        if disk.identity not in before:
            yield _disk(vm, "added", disk, None, disk.size)
    for earlier, disk in _kept_disks(old, new):
        if earlier.size != disk.size:
            yield _disk(vm, "resized", disk, earlier.size, disk.size)


def _disk(vm: str, action: str, disk: DiskFact, before: int | None, size: int | None) -> Event:
    return Event(
        "disk", vm, {"action": action, "disk": disk.label, "size": size, "size_before": before}
    )


def _tracking(vm: str, old: VmFacts, new: VmFacts) -> Iterator[Event]:
    if _differ(old.is_tracking, new.is_tracking):
        action = "enabled" if new.is_tracking else "disabled"
        yield Event("tracking", vm, {"action": action, "disks": []})
        return
    kept = list(_kept_disks(old.hardware, new.hardware))
    lost = [after.label for before, after in kept if before.epoch and not after.epoch]
    reset = [
        after.label
        for before, after in kept
        if before.epoch and after.epoch and before.epoch != after.epoch
    ]
    if lost and new.is_tracking:
        yield Event("tracking", vm, {"action": "disabled", "disks": lost})
    if reset:
        yield Event("tracking", vm, {"action": "reset", "disks": reset})
