"""What the server says of one virtual machine now."""

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
_DEEPEST: Final = 100
"""Levels of snapshots; vSphere allows 32."""


class NotConnected(SourceUnavailable):
    """The server cannot tell the state of a machine now."""

    advice: ClassVar[str] = "see to it that its host runs and is connected"

    def __init__(self, state: str) -> None:
        super().__init__(f"its state is {state}: {self.advice}")
        self.state = state


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One snapshot in the tree of a machine."""

    object: Any
    id: str
    name: str
    created: datetime
    is_quiesced: bool
    depth: int
    """1 for a snapshot without a parent."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Where a machine runs, as far as the user may see that."""

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
    """A GuestInfo, as the tools told it last; None if they never did."""
    host: HostFacts
    can_track: bool
    needs_consolidation: bool
    snapshots: tuple[SnapshotEntry, ...]
    disks: tuple[DiskFacts, ...]
    question: str | None = None
    """What the machine waits to be told before it goes on."""
    host_id: str | None = None
    """The managed object id of the host that it is on."""

    @property
    def hardware(self) -> int:
        """The NN of vmx-NN; 0 if it is spelled otherwise."""
        number = str(self.config.version).removeprefix("vmx-")
        return int(number) if number.isdecimal() else 0

    @property
    def tools(self) -> str | None:
        """guestToolsRunning, guestToolsNotRunning … ; None if vSphere does not know."""
        return getattr(self.guest, "toolsRunningStatus", None)

    @property
    def is_tracking(self) -> bool:
        """The flag itself; the mirrored ctkEnabled setting alone does not track."""
        return bool(self.config.changeTrackingEnabled)

    @property
    def is_off(self) -> bool:
        return self.power == "poweredOff"

    def settings(self) -> Mapping[str, str]:
        """extraConfig, keys in lower case."""
        return {str(each.key).lower(): str(each.value) for each in self.config.extraConfig or ()}


def load_machine(session: Session, vm: ListedVm) -> Machine:
    """The machine's state by one call; SourceUnavailable if its host cannot tell."""
    found = retrieve(
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
    for each in found:
        if isinstance(each.object, vim.HostSystem):
            host = _host(each)
        else:
            each.require()
            values = each.values
    return _machine(session, vm, values, host)


def load_machines(
    session: Session, vms: Sequence[ListedVm]
) -> dict[str, Machine | SourceUnavailable]:
    """The state of many machines by few calls, by managed object id; or why it is not known."""
    wanted = [properties(vim.VirtualMachine, *_PATHS)]
    found = {each.id: each for each in retrieve_each(session, [vm.object for vm in vms], wanted)}
    states: dict[str, Machine | SourceUnavailable] = {}
    for vm in vms:
        try:
            if vm.id not in found:
                raise SourceUnavailable("it was removed meanwhile")
            found[vm.id].require()
            states[vm.id] = _machine(session, vm, found[vm.id].values)
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
    place = values.get("runtime.host")
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
        host_id=None if place is None else str(place._moId),
    )


def _question(info: Any) -> str | None:
    return None if info is None else " ".join(str(info.text or "").split())


def _host(found: ObjectProperties) -> HostFacts:
    product = found.values.get("summary.config.product")
    name = found.values.get("name")
    return HostFacts(
        None if name is None else str(name), None if product is None else str(product.fullName)
    )


def load_snapshots(session: Session, vm: Any) -> tuple[SnapshotEntry, ...]:
    """The snapshots that the machine has now."""
    return entries_of(read(session, vm, "snapshot").get("snapshot"), str(session.address))


def entries_of(info: Any, server: str) -> tuple[SnapshotEntry, ...]:
    """The entries of a VirtualMachineSnapshotInfo of that server, parents first."""
    return () if info is None else tuple(_entries(info.rootSnapshotList, 1, server))


def _entries(trees: Any, depth: int, server: str) -> Iterator[SnapshotEntry]:
    if depth > _DEEPEST:
        raise SourceUnavailable(
            f"{server} reports snapshots of a VM in more than {_DEEPEST} levels: see what answers "
            "there"
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
    """Where files are."""

    name: str
    type: str
    capacity: int = 0
    """Bytes."""
    free: int = 0
    is_accessible: bool = True


def load_datastores(session: Session, ids: Collection[str]) -> dict[str, DatastoreFacts]:
    """The datastores of those managed object ids, as far as the user may see them."""
    stub = session.content.rootFolder._stub
    stores = [vim.Datastore(each, stub) for each in sorted(ids)]
    found = retrieve_each(session, stores, [properties(vim.Datastore, "summary")])
    return {
        each.id: _datastore(each.values["summary"]) for each in found if "summary" in each.values
    }


def _datastore(summary: Any) -> DatastoreFacts:
    return DatastoreFacts(
        str(summary.name),
        str(summary.type),
        int(summary.capacity or 0),
        int(summary.freeSpace or 0),
        bool(summary.accessible),
    )
