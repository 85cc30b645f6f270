"""The initial inventory of the simulator, from a TOML file or as Python values."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
Entry = TypeVar("Entry")


class InventoryError(ValueError):
    """Raised when the inventory is invalid."""


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """The server itself."""

    kind: str = "vcenter"  # or esxi
    api: str = "8.0.3.0"  # newest API version: 6.7, 7.0.3.0, 8.0.3.0 …
    seed: int = 0  # random seed of ids and UUIDs

    def __post_init__(self) -> None:
        if self.kind not in ("vcenter", "esxi"):
            raise InventoryError(f"invalid server.kind {self.kind!r}: use vcenter or esxi")


@dataclass(frozen=True, slots=True)
class UserEntry:
    """A user who may log in."""

    name: str = "administrator@vsphere.local"
    password: str = "vsim"
    privileges: tuple[str, ...] = ("*",)  # shell patterns of privilege ids
    denied: tuple[str, ...] = ()  # exceptions to privileges


@dataclass(frozen=True, slots=True)
class DatastoreEntry:
    """A datastore."""

    name: str = "datastore1"
    datacenter: str = "DC0"
    type: str = "VMFS"
    capacity: int = 1 << 44
    free: int = -1  # default: half of the capacity
    accessible: bool = True


@dataclass(frozen=True, slots=True)
class HostEntry:
    """An ESXi host. The first one of a datacenter has its machines at first."""

    name: str  # name or address in vCenter, to which clients connect
    datacenter: str = "DC0"
    port: int = 902  # summary.config.port: the agent's port, not the HTTPS port
    connection: str = "connected"  # disconnected, notResponding
    maintenance: bool = False
    address: str = ""  # of an NFC server of its own; default: the common one


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """A disk, values by its *size* in bytes, a raw *file*, or both."""

    size: int = 0
    file: Path | None = None
    label: str = ""  # default: Hard disk 1, 2 …
    slot: str = ""  # default: scsi0:0, scsi0:1 …
    datastore: str = ""  # default: the datastore of the machine
    mode: str = "persistent"
    backing: str = "flat2"
    provisioning: str = "thin"
    sharing: str = "sharingNone"
    linked: bool = False  # like a linked clone: a delta disk whose parent has no snapshot


@dataclass(frozen=True, slots=True)
class MachineEntry:
    """A virtual machine."""

    name: str
    datacenter: str = "DC0"
    folder: str = ""  # path below the datacenter's vm folder, such as prod/web
    datastore: str = "datastore1"
    hardware: int = 19
    power: str = "on"
    tools: bool = True
    template: bool = False
    cbt: bool = False
    instance_uuid: str = ""
    bios_uuid: str = ""
    annotation: str = ""
    shared_bus: str = (
        "noSharing"  # sharing of the SCSI controllers: virtualSharing, physicalSharing
    )
    extra: Mapping[str, str] = field(default_factory=dict)
    disks: tuple[DiskEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """A whole inventory. The defaults make a server with one user and no machine."""

    server: ServerEntry = field(default_factory=ServerEntry)
    users: tuple[UserEntry, ...] = (UserEntry(),)
    datacenters: tuple[str, ...] = ("DC0",)
    datacenter_folders: Mapping[str, str] = field(
        default_factory=dict
    )  # datacenter name to folder path
    datastores: tuple[DatastoreEntry, ...] = (DatastoreEntry(),)
    hosts: tuple[HostEntry, ...] = ()  # default host of a datacenter: esx1, esx2 …
    machines: tuple[MachineEntry, ...] = ()


def parse_size(text: str | int) -> int:
    """Return the bytes of a size such as '256M', '1.5G' or a number; raises InventoryError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if not match:
        raise InventoryError(f"invalid size {text!r}: use e.g. 256M, 1.5G or a number of bytes")
    return int(float(match[1]) * UNITS[match[2].upper()])


def load_inventory(path: Path) -> Inventory:
    """Load the inventory from a TOML file; raises InventoryError.

    Paths of disk files are relative to the TOML file.
    """
    try:
        with path.open("rb") as file:
            return parse_inventory(tomllib.load(file), path.parent)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InventoryError(f"{path}: {error}") from error


def parse_inventory(table: Mapping[str, Any], directory: Path) -> Inventory:
    """Return the inventory of a TOML table; raises InventoryError."""
    _require_known(
        table, {"server", "user", "datacenter", "datastore", "host", "vm"}, "the inventory"
    )
    default = Inventory()
    datacenters = tuple(str(entry["name"]) for entry in table.get("datacenter", ()))
    return Inventory(
        server=_entry(ServerEntry, table.get("server", {})),
        users=tuple(
            _entry(UserEntry, _as_tuples(entry, "privileges", "denied"))
            for entry in table.get("user", ())
        )
        or default.users,
        datacenters=datacenters or default.datacenters,
        datacenter_folders={
            str(entry["name"]): str(entry["folder"])
            for entry in table.get("datacenter", ())
            if entry.get("folder")
        },
        datastores=tuple(
            _entry(DatastoreEntry, _sized(_sized(entry, "capacity"), "free"))
            for entry in table.get("datastore", ())
        )
        or default.datastores,
        hosts=tuple(_entry(HostEntry, entry) for entry in table.get("host", ())),
        machines=tuple(_machine(entry, directory) for entry in table.get("vm", ())),
    )


def _machine(entry: Mapping[str, Any], directory: Path) -> MachineEntry:
    values = dict(entry)
    disks = tuple(parse_disk(disk, directory) for disk in values.pop("disk", ()))
    return _entry(MachineEntry, {**values, "disks": disks})


def parse_disk(entry: Mapping[str, Any], directory: Path) -> DiskEntry:
    """Return the disk of a TOML or JSON table; raises InventoryError."""
    values = _sized(entry, "size")
    if "file" in values:
        values["file"] = directory / values["file"]
    if not {"file", "size"} & values.keys():
        raise InventoryError("a disk needs a size or a file")
    return _entry(DiskEntry, values)


def _sized(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = dict(entry)
    if name in values:
        values[name] = parse_size(values[name])
    return values


def _as_tuples(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: tuple(value) if key in names else value for key, value in entry.items()}


def _entry(kind: type[Entry], values: Mapping[str, Any]) -> Entry:
    _require_known(values, {member.name for member in fields(kind)}, kind.__name__)  # type: ignore[arg-type]
    try:
        return kind(**values)
    except TypeError as error:
        raise InventoryError(f"{kind.__name__}: {error}") from error


def _require_known(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = table.keys() - known
    if unknown:
        raise InventoryError(f"unknown key of {where}: {', '.join(sorted(unknown))}")
