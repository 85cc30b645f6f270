"""The current state of VMs: configuration, power, snapshots, disks, host."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from pyVmomi import vim

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.disks import DiskFacts, disks_of
from cbtfs.source.vsphere.inventory.properties import (
    ObjectProperties,
    properties,
    read,
    retrieve,
    retrieve_each,
    walk,
)
from cbtfs.source.vsphere.inventory.vms import ListedVm

_PATHS: Final = (
    "name",
    "config",
    "capability.changeTrackingSupported",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "runtime.question",
    "runtime.host",
    "guest",
    "snapshot",
)
_MAX_DEPTH: Final = 100
"""Maximum number of levels of snapshots; vSphere allows 32."""


class NotConnected(SourceUnavailable):
    """Raised when the server does not know the current state of a VM."""

    advice: ClassVar[str] = "check that its host is running and connected"

    def __init__(self, state: str) -> None:
        super().__init__(f"its state is {state}: {self.advice}")
        self.state = state


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One snapshot in the snapshot tree of a VM."""

    object: Any
    id: str
    name: str
    created: datetime
    is_quiesced: bool
    depth: int
    """1 for a snapshot without a parent."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host of a VM, as far as the user may see it."""

    name: str | None = None
    product: str | None = None


_UNKNOWN: Final = HostFacts()


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine at one moment."""

    object: Any
    config: Any
    power: str
    connection: str
    guest: Any
    """The last GuestInfo that VMware Tools reported; None if they never did."""
    host: HostFacts
    can_track: bool
    needs_consolidation: bool
    snapshots: tuple[SnapshotEntry, ...]
    disks: tuple[DiskFacts, ...]
    question: str | None = None
    """The question that blocks the VM until somebody answers it."""
    host_id: str | None = None
    """The managed object id of the host."""

    @property
    def hardware(self) -> int:
        """The NN of vmx-NN; 0 if the version has another form."""
        number = str(self.config.version).removeprefix("vmx-")
        return int(number) if number.isdecimal() else 0

    @property
    def tools(self) -> str | None:
        """guestToolsRunning, guestToolsNotRunning … ; None if vSphere does not know."""
        return getattr(self.guest, "toolsRunningStatus", None)

    @property
    def is_tracking(self) -> bool:
        """The VM's flag; the ctkEnabled setting that mirrors it has no effect by itself."""
        return bool(self.config.changeTrackingEnabled)

    @property
    def is_off(self) -> bool:
        return self.power == "poweredOff"

    def settings(self) -> Mapping[str, str]:
        """Return extraConfig with keys in lower case."""
        options = self.config.extraConfig or ()
        return {str(option.key).lower(): str(option.value) for option in options}


def load_machine(session: Session, vm: ListedVm) -> Machine:
    """Return the VM's state, by one call; SourceUnavailable if its host is not connected."""
    objects = retrieve(
        session,
        vm.object,
        [
            properties(vim.VirtualMachine, *_PATHS),
            properties(vim.HostSystem, "name", "summary.config.product"),
        ],
        [walk("host", vim.VirtualMachine, "runtime.host")],
    )
    values: Mapping[str, Any] = {}
    host = _UNKNOWN
    for item in objects:
        if isinstance(item.object, vim.HostSystem):
            host = _host(item)
        else:
            item.require()
            values = item.values
    return _machine(session, vm, values, host)


def load_machines(
    session: Session, vms: Sequence[ListedVm]
) -> dict[str, Machine | SourceUnavailable]:
    """Return the states of VMs by managed object id, in few calls; an error for an unknown one."""
    wanted = [properties(vim.VirtualMachine, *_PATHS)]
    items = {item.id: item for item in retrieve_each(session, [vm.object for vm in vms], wanted)}
    states: dict[str, Machine | SourceUnavailable] = {}
    for vm in vms:
        try:
            if vm.id not in items:
                raise SourceUnavailable("it was removed in the meantime")
            items[vm.id].require()
            states[vm.id] = _machine(session, vm, items[vm.id].values)
        except SourceUnavailable as exc:
            states[vm.id] = exc
    return states


def _machine(
    session: Session, vm: ListedVm, values: Mapping[str, Any], host: HostFacts = _UNKNOWN
) -> Machine:
    config = values.get("config")
    connection = str(values.get("runtime.connectionState", "unknown"))
    if config is None or connection != "connected":
        raise NotConnected(connection)
    host_object = values.get("runtime.host")
    return Machine(
        object=vm.object,
        config=config,
        power=str(values.get("runtime.powerState")),
        connection=connection,
        guest=values.get("guest"),
        host=host,
        can_track=bool(values.get("capability.changeTrackingSupported")),
        needs_consolidation=bool(values.get("runtime.consolidationNeeded")),
        snapshots=entries_of(values.get("snapshot"), str(session.address)),
        disks=tuple(disks_of(config)),
        question=_question(values.get("runtime.question")),
        host_id=None if host_object is None else str(host_object._moId),
    )


def _question(info: Any) -> str | None:
    return None if info is None else " ".join(str(info.text or "").split())


def _host(host: ObjectProperties) -> HostFacts:
    product = host.values.get("summary.config.product")
    name = host.values.get("name")
    return HostFacts(
        None if name is None else str(name), None if product is None else str(product.fullName)
    )


def load_snapshots(session: Session, vm: Any) -> tuple[SnapshotEntry, ...]:
    """Return the current snapshots of the VM, parents first."""
    return entries_of(read(session, vm, "snapshot").get("snapshot"), str(session.address))


def entries_of(info: Any, server: str) -> tuple[SnapshotEntry, ...]:
    """Return the entries of a VirtualMachineSnapshotInfo, parents first; *server* is its name."""
    return () if info is None else tuple(_entries(info.rootSnapshotList, 1, server))


def _entries(trees: Any, depth: int, server: str) -> Iterator[SnapshotEntry]:
    if depth > _MAX_DEPTH:
        raise SourceUnavailable(
            f"{server} reports more than {_MAX_DEPTH} levels of snapshots of a VM: check which "
            "program answers there"
        )
    for tree in trees or ():
        yield SnapshotEntry(
            tree.snapshot,
            str(tree.snapshot._moId),
            str(tree.name),
            tree.createTime,
            bool(tree.quiesced),
            depth,
        )
        yield from _entries(tree.childSnapshotList, depth + 1, server)


@dataclass(frozen=True, slots=True)
class DatastoreFacts:
    """Name, type and space of a datastore."""

    name: str
    type: str
    capacity: int = 0
    """Bytes."""
    free: int = 0
    is_accessible: bool = True


def load_datastores(session: Session, ids: Collection[str]) -> dict[str, DatastoreFacts]:
    """Return datastores by managed object id; those that the user may not see are absent."""
    stub = session.content.rootFolder._stub
    stores = [vim.Datastore(identity, stub) for identity in sorted(ids)]
    items = retrieve_each(session, stores, [properties(vim.Datastore, "summary")])
    return {
        item.id: _datastore(item.values["summary"]) for item in items if "summary" in item.values
    }


def _datastore(summary: Any) -> DatastoreFacts:
    return DatastoreFacts(
        str(summary.name),
        str(summary.type),
        int(summary.capacity or 0),
        int(summary.freeSpace or 0),
        bool(summary.accessible),
    )
