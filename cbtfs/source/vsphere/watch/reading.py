"""Facts of VMs, tasks and hosts from the values of a property filter."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, Final

from pyVmomi import vim

from cbtfs.core.watch.facts import DiskFact, Hardware, SnapshotFact, SnapshotTree, VmFacts
from cbtfs.core.watch.tracker import HostUpdate, TaskLeft, TaskUpdate, Update, VmLeft, VmUpdate
from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.inventory.disks import DiskFacts, disks_of
from cbtfs.source.vsphere.inventory.machine import entries_of
from cbtfs.source.vsphere.snapshots.stun import is_own

VM_PATHS: Final = (
    "name",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.host",
    "snapshot",
    "config.hardware",
    "config.files.vmPathName",
    "config.changeTrackingEnabled",
    "config.annotation",
    "config.guestId",
    "config.version",
)
TASK_PATHS: Final = ("info.descriptionId", "info.entity", "info.reason", "info.state")
HOST_PATHS: Final = ("name",)
_PATHS: Final = (
    (vim.VirtualMachine, VM_PATHS),
    (vim.Task, TASK_PATHS),
    (vim.HostSystem, HOST_PATHS),
)
_DATASTORE: Final = re.compile(r"\[([^\]]*)\]")
_MAX_TEXT: Final = 1000
"""Characters kept of a name; vSphere allows 80."""
_MAX_ENTRIES: Final = 1000
"""Snapshots or devices of a VM; vSphere allows 32 levels and a few hundred devices."""
_OVER: Final = ("success", "error")
_RECONFIGURING: Final = ("reconfig", "upgradevirtualhardware", "upgradevm")
"""Parts of the description of tasks that cbtfs starts, too: ReconfigVM_Task, UpgradeVM_Task."""
_DEVICE: Final = ("key", "controllerKey", "unitNumber", "macAddress", "sharedBus")
_BACKING: Final = ("deviceName", "diskMode", "sharing", "compatibilityMode", "network")


@dataclass(frozen=True, slots=True)
class Reader:
    """Translates the objects of an UpdateSet; *server* and *user* are those of the session."""

    server: str
    user: str
    """The user as the server names it."""

    def updates(self, item: Any) -> tuple[list[Update], bool]:
        """Return the updates of one ObjectUpdate, and whether the object must be read again.

        SourceUnavailable if a value is not one that vSphere can have.
        """
        try:
            return self._updates(item)
        except (AttributeError, TypeError, ValueError) as exc:
            raise SourceUnavailable(
                f"{self.server} reports a property of {item.obj._moId} with a value of another "
                "type: check which program answers there"
            ) from exc

    def _updates(self, item: Any) -> tuple[list[Update], bool]:
        managed, kind = item.obj, str(item.kind)
        identity = str(managed._moId)
        if kind == "leave":
            if isinstance(managed, vim.VirtualMachine):
                return [VmLeft(identity)], False
            return ([TaskLeft(identity)] if isinstance(managed, vim.Task) else []), False
        paths = next((paths for known, paths in _PATHS if isinstance(managed, known)), ())
        values, is_partial = _values(item.changeSet, paths)
        if isinstance(managed, vim.VirtualMachine):
            missing = {str(missing.path) for missing in item.missingSet or ()}
            facts = self.facts(values, is_whole=kind == "enter", missing=missing)
            return [VmUpdate(identity, facts)], is_partial
        if isinstance(managed, vim.Task):
            return list(self._task(identity, values)), False
        if isinstance(managed, vim.HostSystem) and values.get("name") is not None:
            return [HostUpdate(identity, _text(values["name"]))], False
        return [], False

    def facts(
        self, values: Mapping[str, Any], *, is_whole: bool, missing: Iterable[str] = ()
    ) -> VmFacts:
        """Return the facts of a VM; *is_whole*: properties without a value are unset.

        A VM without snapshots has no value of `snapshot`, and neither has one whose configuration
        the server does not know.
        """
        host, hardware = values.get("runtime.host"), values.get("config.hardware")
        unset = {"snapshot", "config.annotation"} - set(missing)
        if not is_whole or hardware is None:
            unset = set()
        snapshots = None
        if "snapshot" in {*values, *unset}:
            snapshots = _tree(values.get("snapshot"), self.server)
        is_noted = "config.annotation" in {*values, *unset}
        home = values.get("config.files.vmPathName")
        tracking = values.get("config.changeTrackingEnabled")
        return VmFacts(
            name=_known(values.get("name")),
            power=_known(values.get("runtime.powerState")),
            connection=_known(values.get("runtime.connectionState")),
            host=None if host is None else str(host._moId),
            home=None if home is None else _datastore(str(home)),
            snapshots=snapshots,
            hardware=None if hardware is None else _hardware(hardware),
            is_tracking=None if tracking is None else bool(tracking),
            notes=_digest(values.get("config.annotation") or "") if is_noted else None,
            guest=_known(values.get("config.guestId")),
            version=_known(values.get("config.version")),
        )

    def _task(self, identity: str, values: Mapping[str, Any]) -> Iterator[Update]:
        state = values.get("info.state")
        entity, reason = values.get("info.entity"), values.get("info.reason")
        what = str(values.get("info.descriptionId") or "").lower()
        if isinstance(entity, vim.VirtualMachine) and any(word in what for word in _RECONFIGURING):
            user = str(getattr(reason, "userName", None) or "")
            yield TaskUpdate(
                identity, str(entity._moId), same_user(user, self.user), str(state) in _OVER
            )
        elif state is not None and str(state) in _OVER:
            yield TaskLeft(identity)


def _values(changes: Iterable[Any], paths: Iterable[str]) -> tuple[dict[str, Any], bool]:
    """Return the values of *paths*, and whether a change is of a part of one.

    A server may report a nested property (`config.hardware.device[4000]`) although the filter asks
    for whole ones, or an enclosing one (`config`).
    """
    values: dict[str, Any] = {}
    is_partial = False
    for change in changes or ():
        name = str(change.name)
        for path in paths:
            if name == path:
                values[path] = change.val if str(change.op) in ("assign", "add") else None
            elif name.startswith((f"{path}.", f"{path}[")):
                is_partial = True
            elif path.startswith(f"{name}."):
                values[path] = _below(change.val, path[len(name) + 1 :])
    return values, is_partial


def _below(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def same_user(one: str, other: str) -> bool:
    """Return whether two forms of a user name, `DOMAIN\\user` or `user@domain`, can be equal."""
    (name, domain), (other_name, other_domain) = _user(one), _user(other)
    return name == other_name and (not domain or not other_domain or domain == other_domain)


def _user(text: str) -> tuple[str, str]:
    text = text.casefold()
    if "\\" in text:
        domain, _, name = text.partition("\\")
    else:
        name, _, domain = text.partition("@")
    return name, domain


def _known(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    return str(value)[:_MAX_TEXT]


def _digest(value: object) -> str:
    """Return a short text that is equal for equal values."""
    return blake2b(repr(value).encode(errors="backslashreplace"), digest_size=12).hexdigest()


def _datastore(path: str) -> str:
    match = _DATASTORE.match(path)
    return _text(match[1]) if match else ""


def _tree(info: Any, server: str) -> SnapshotTree:
    entries = entries_of(info, server)
    if len(entries) > _MAX_ENTRIES:
        raise SourceUnavailable(f"{server} reports {len(entries)} snapshots of a VM")
    current = getattr(info, "currentSnapshot", None)
    return SnapshotTree(
        tuple(SnapshotFact(entry.id, _text(entry.name), is_own(entry.name)) for entry in entries),
        None if current is None else str(current._moId),
    )


def _hardware(hardware: Any) -> Hardware:
    devices = list(hardware.device or ())
    if len(devices) > _MAX_ENTRIES:
        raise SourceUnavailable(f"a VM has {len(devices)} devices")
    disks = disks_of(SimpleNamespace(hardware=hardware))
    settings = {"cpus": str(hardware.numCPU), "memory": str(hardware.memoryMB)}
    for device in devices:
        label = getattr(device.deviceInfo, "label", None) or f"device {device.key}"
        if isinstance(device, vim.vm.device.VirtualDisk):
            # Snapshots change the file, and events of their own report added disks.
            continue
        settings[f"{_text(label)} ({device.key})"] = _digest(_device(device))
    return Hardware(tuple(map(_disk, disks)), tuple(sorted(settings.items())))


def _device(device: Any) -> list[Any]:
    """Return what a reconfiguration changes of a device; power and guests change the rest."""
    backing, connectable = getattr(device, "backing", None), getattr(device, "connectable", None)
    values = [type(device).__name__, type(backing).__name__]
    values += [str(getattr(device, name, None)) for name in _DEVICE]
    values += [str(getattr(backing, name, None)) for name in (*_BACKING, "fileName")]
    port = getattr(backing, "port", None)
    values += [str(getattr(port, "portgroupKey", None))]
    return [*values, str(getattr(connectable, "startConnected", None))]


def _disk(disk: DiskFacts) -> DiskFact:
    epoch = None if disk.change_id is None else _text(disk.change_id.partition("/")[0])
    return DiskFact(
        _text(disk.identity),
        _text(disk.label),
        disk.size,
        _datastore(disk.root),
        _digest([disk.mode, disk.sharing, disk.slot]),
        epoch,
    )
