"""The inventory: what the simulator has when it starts. A TOML file, or these classes in Python."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
Entry = TypeVar("Entry")


class InventoryError(ValueError):
    """The inventory cannot be used."""


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """The server itself."""

    kind: str = "vcenter"  # or esxi
    api: str = "8.0.3.0"  # the newest API version it announces: 6.7, 7.0.3.0, 8.0.3.0 …
    seed: int = 0  # of ids and UUIDs

    def __post_init__(self) -> None:
        if self.kind not in ("vcenter", "esxi"):
            raise InventoryError(f"server.kind is vcenter or esxi, not {self.kind!r}")


@dataclass(frozen=True, slots=True)
class UserEntry:
    """Somebody who may log in."""

    name: str = "administrator@vsphere.local"
    password: str = "vsim"
    privileges: tuple[str, ...] = ("*",)  # shell patterns of privilege ids
    denied: tuple[str, ...] = ()  # taken away again


@dataclass(frozen=True, slots=True)
class DatastoreEntry:
    name: str = "datastore1"
    datacenter: str = "DC0"
    type: str = "VMFS"
    capacity: int = 1 << 44
    free: int = -1  # default: half of it
    accessible: bool = True


@dataclass(frozen=True, slots=True)
class HostEntry:
    """The ESXi host of a datacenter: each has one."""

    name: str  # as vCenter knows it, a name or an address: clients look for its ports there
    datacenter: str = "DC0"
    port: int = 902  # as summary.config.port tells: of its agent, not of its HTTPS
    connection: str = "connected"  # disconnected, notResponding
    maintenance: bool = False


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """A disk. Either *size* (bytes) or a raw *file*, or both."""

    size: int = 0
    file: Path | None = None
    label: str = ""  # default: Hard disk 1, 2 …
    slot: str = ""  # default: scsi0:0, scsi0:1 …
    datastore: str = ""  # default: the machine's
    mode: str = "persistent"
    backing: str = "flat2"
    provisioning: str = "thin"
    sharing: str = "sharingNone"
    linked: bool = False  # as of a linked clone: its delta disk has a parent without a snapshot


@dataclass(frozen=True, slots=True)
class MachineEntry:
    """A virtual machine."""

    name: str
    datacenter: str = "DC0"
    folder: str = ""  # below the datacenter's vm folder, such as prod/web
    datastore: str = "datastore1"
    hardware: int = 19
    power: str = "on"
    tools: bool = True
    template: bool = False
    cbt: bool = False
    instance_uuid: str = ""
    bios_uuid: str = ""
    annotation: str = ""
    shared_bus: str = "noSharing"  # of its SCSI controllers: virtualSharing, physicalSharing
    extra: Mapping[str, str] = field(default_factory=dict)
    disks: tuple[DiskEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it. The defaults make a server with one user and nothing to back up."""

    server: ServerEntry = field(default_factory=ServerEntry)
    users: tuple[UserEntry, ...] = (UserEntry(),)
    datacenters: tuple[str, ...] = ("DC0",)
    datacenter_folders: Mapping[str, str] = field(default_factory=dict)  # by datacenter: a/b
    datastores: tuple[DatastoreEntry, ...] = (DatastoreEntry(),)
    hosts: tuple[HostEntry, ...] = ()  # a datacenter without one: esx1, esx2 …
    machines: tuple[MachineEntry, ...] = ()


def parse_size(text: str | int) -> int:
    """Bytes of '256M', '1.5G' or a plain number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if not found:
        raise InventoryError(f"not a size: {text!r}")
    return int(float(found[1]) * UNITS[found[2].upper()])


def load_inventory(path: Path) -> Inventory:
    """The inventory in a TOML file; raises InventoryError. Disk files are relative to it."""
    try:
        with path.open("rb") as file:
            return parse_inventory(tomllib.load(file), path.parent)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InventoryError(f"{path}: {error}") from error


def parse_inventory(table: Mapping[str, Any], directory: Path) -> Inventory:
    """The inventory in a TOML table; raises InventoryError."""
    _only(table, {"server", "user", "datacenter", "datastore", "host", "vm"}, "the inventory")
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
    given = dict(entry)
    disks = tuple(parse_disk(disk, directory) for disk in given.pop("disk", ()))
    return _entry(MachineEntry, {**given, "disks": disks})


def parse_disk(entry: Mapping[str, Any], directory: Path) -> DiskEntry:
    """A disk of a TOML or JSON table; raises InventoryError."""
    given = _sized(entry, "size")
    if "file" in given:
        given["file"] = directory / given["file"]
    if not {"file", "size"} & given.keys():
        raise InventoryError("a disk has a size or a file")
    return _entry(DiskEntry, given)


def _sized(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = dict(entry)
    if name in given:
        given[name] = parse_size(given[name])
    return given


def _as_tuples(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: tuple(value) if key in names else value for key, value in entry.items()}


def _entry(kind: type[Entry], given: Mapping[str, Any]) -> Entry:
    _only(given, {each.name for each in fields(kind)}, kind.__name__)  # type: ignore[arg-type]
    try:
        return kind(**given)
    except TypeError as error:
        raise InventoryError(f"{kind.__name__}: {error}") from error


def _only(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = given.keys() - known
    if unknown:
        raise InventoryError(f"{where} has no {', '.join(sorted(unknown))}")
