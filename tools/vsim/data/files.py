"""The files on the datastores: configuration, descriptors, extents.

If a machine has snapshots, the base extent (-flat.vmdk) holds the bytes of the oldest one. Extents
of delta disks and -ctk.vmdk files have names and sizes; their formats are not simulated.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.vsim.model.disk import Link, SimulatedDisk
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.world import World

NVRAM = b"MRVN" + bytes(8680)  # the usual size of the file
HAS_FLAT = ("flat2", "flat1")


@dataclass(frozen=True, slots=True)
class DatastoreFile:
    """A file on a datastore; *content* is None if the format is not simulated."""

    path: str  # [datastore] directory/name
    kind: str  # type in FileLayoutEx
    size: int
    content: bytes | Path | None
    locked: bool = False  # a running machine has it open

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class DatastoreContents:
    """The files that a datastore browser shows. The world's lock covers the methods."""

    def __init__(self, world: World) -> None:
        self._world = world

    def of_machine(self, machine: SimulatedMachine) -> list[DatastoreFile]:
        """Return all files of a machine, also on other datastores."""
        base = f"[{machine.datastore}] {machine.directory}/{machine.directory}"
        vmx = _vmx(machine)
        files = [
            DatastoreFile(f"{base}.vmx", "config", len(vmx), vmx),
            DatastoreFile(f"{base}.nvram", "nvram", len(NVRAM), NVRAM),
        ]
        disks = {
            *machine.disks,
            *(state.disk for snapshot in machine.snapshots for state in snapshot.disks),
        }
        for disk in sorted(disks, key=lambda disk: disk.spec.key):
            for link in disk.links:
                files += _link_files(machine, disk, link)
        return files

    def find(self, path: str) -> DatastoreFile | None:
        """Return the file at '[datastore] directory/name'."""
        for machine in self._world.machines.values():
            for file in self.of_machine(machine):
                if file.path == path:
                    return file
        return None

    def below(self, datastore: str, directory: str) -> dict[str, DatastoreFile | None]:
        """Return the files of a directory by name; None for a subdirectory.

        The result is empty if the directory does not exist.
        """
        prefix = f"[{datastore}] " + (f"{directory}/" if directory else "")
        entries: dict[str, DatastoreFile | None] = {}
        for machine in self._world.machines.values():
            for file in self.of_machine(machine):
                if file.path.startswith(prefix):
                    name, slash, _ = file.path.removeprefix(prefix).partition("/")
                    entries[name] = None if slash else file
        return entries


def _link_files(
    machine: SimulatedMachine, disk: SimulatedDisk, link: Link
) -> Iterator[DatastoreFile]:
    spec, tracked = disk.spec, disk.tracker is not None
    if link.number:
        extent, kind = disk.path(link, "-sesparse"), "SESPARSE"
    elif spec.backing in HAS_FLAT:
        extent, kind = disk.path(link, "-flat"), "VMFS"
    else:
        extent, kind = disk.path(link, "-rdm" if "rdm" in spec.backing else "-sparse"), "SPARSE"
    locked = machine.is_on and (link is disk.current or machine.knobs.data.base_locked)
    descriptor = _descriptor(disk, link, f'RW {spec.size // 512} {kind} "{_name(extent)}"', tracked)
    yield DatastoreFile(disk.path(link), "diskDescriptor", len(descriptor), descriptor)
    if kind == "VMFS":
        yield DatastoreFile(extent, "diskExtent", spec.size, link.image or disk.live, locked)
    else:
        yield DatastoreFile(extent, "diskExtent", 1 << 20, None, locked)
    if tracked:
        size = (spec.size // 65536 // 8 + 1024) // 512 * 512
        yield DatastoreFile(disk.path(link, "-ctk"), "diskExtent", size, None, locked)


def _descriptor(disk: SimulatedDisk, link: Link, extent: str, tracked: bool) -> bytes:
    hexes = disk.spec.uuid.replace("-", "")
    pairs = [hexes[at : at + 2] for at in range(0, 32, 2)]
    lines = [
        "# Disk DescriptorFile",
        f"version={3 if tracked else 1}",
        'encoding="UTF-8"',
        f"CID={int(hexes[:8], 16) & 0xFFFFFFF0 | link.number:08x}",
        "parentCID=ffffffff" if link.parent is None else f"parentCID={hexes[:7]}0",
        f'createType="{"seSparse" if link.number else "vmfs"}"',
    ]
    if link.parent is not None:
        lines.append(f'parentFileNameHint="{_name(disk.path(link.parent))}"')
    lines += ["# Extent description", extent]
    if tracked:
        ctk = _name(disk.path(link, "-ctk"))
        lines += ["# Change Tracking File", f'changeTrackPath="{ctk}"']
    lines += [
        "# The Disk Data Base",
        "#DDB",
        'ddb.adapterType = "lsilogic"',
        f'ddb.thinProvisioned = "{int(disk.spec.provisioning == "thin")}"',
        f'ddb.uuid = "{" ".join(pairs[:8])}-{" ".join(pairs[8:])}"',
    ]
    return ("\n".join(lines) + "\n").encode()


def _vmx(machine: SimulatedMachine) -> bytes:
    spec = machine.spec
    settings = {
        "config.version": "8",
        "virtualHW.version": str(spec.hardware),
        "displayName": spec.name,
        "guestOS": spec.guest_id,
        "memSize": str(spec.memory_mib),
        "numvcpus": str(spec.cpus),
        "uuid.bios": spec.bios_uuid,
        "vc.uuid": spec.instance_uuid,
        **{f"{disk.spec.slot}.fileName": _name(disk.path()) for disk in machine.disks},
        **spec.extra,
    }
    return "".join(f'{key} = "{value}"\n' for key, value in settings.items()).encode()


def _name(path: str) -> str:
    return path.rpartition("/")[2]
