"""The command line of QEMU for a guest. Pure.

The machine is `pc`, which resembles VMware's chipset. Devices are those of VMware where QEMU has
them; LSI Logic and BusLogic become an LSI 53C895A.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cbtfs.errors import UsageError
from cbtfs.qemu.hardware import Bus, Hardware, Slot

Accelerator = Literal["kvm", "tcg"]

_CAPACITY: Final[dict[Bus, int]] = {
    "pvscsi": 16,
    "lsi": 7,
    "sas": 8,
    "sata": 6,
    "ide": 4,
    "nvme": 16,
    "virtio": 1,
}
"""Disks of one controller."""
_CONTROLLERS: Final[dict[Bus, str]] = {
    "pvscsi": "pvscsi",
    "lsi": "lsi53c895a",
    "sas": "mptsas1068",
    "sata": "ich9-ahci",
    "nvme": "nvme",
}
_MAX_PCI_DEVICES: Final = 24
"""Slots of the PCI bus that are free beside those of the chipset, screen and network."""
_DISCARD_BYTES: Final = 64 << 10
"""Guests discard whole clusters of an image; QEMU ignores the remainder of a cluster."""
_STRICT: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_LOOSE: Final = "on,obsolete=deny"
"""Sandbox for a network that a helper program of QEMU sets up."""


@dataclass(frozen=True, slots=True)
class Efi:
    """Files of the UEFI firmware."""

    code: Path
    variables: Path
    """A copy of this guest, which it writes to."""


@dataclass(frozen=True, slots=True)
class Consoles:
    """Sockets by which users and programs reach a guest; None: the guest has no such device."""

    serial: Path
    serial_log: Path | None = None
    """File that gets everything the guest writes to the serial port."""
    vnc: Path | None = None
    agent: Path | None = None
    """QEMU's guest agent, on a virtio port."""
    qmp: Path | None = None
    """A monitor of QEMU, beside that of this program."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network adapter: QEMU's `-netdev` without id, for example `user`."""

    netdev: str
    mac: str

    @property
    def needs_helper(self) -> bool:
        return self.netdev.partition(",")[0] != "user"


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest: its hardware, and the block nodes of its disks in the order of booting."""

    hardware: Hardware
    nodes: Sequence[str]
    slots: Sequence[Slot]
    """Slot of each node: see Hardware.slots_of()."""
    accelerator: Accelerator
    consoles: Consoles
    efi: Efi | None = None
    """None: BIOS."""
    network: Network | None = None
    is_joint: bool = False
    """Whether the nodes are windows of one image, which each disk lets the others write to."""
    has_dead_nic: bool = False
    """Whether a guest without a network has its adapter, which is connected to nothing."""

    def options(self) -> list[str]:
        """Return the options of QEMU, without those of the block nodes.

        Raises:
            UsageError: there are more disks than the machine has slots.
        """
        return [
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-sandbox", _LOOSE if self.network and self.network.needs_helper else _STRICT),
            *self._board(),
            *self._firmware(),
            *self._consoles(),
            *self._network(),
            *_devices(self._disks()),
        ]

    def _board(self) -> Iterator[str]:
        hardware = self.hardware
        flash = "" if self.efi is None else ",pflash0=efi-code,pflash1=efi-variables"
        yield from ("-machine", f"pc,usb=on{flash}", "-accel", self.accelerator)
        yield from ("-cpu", "host" if self.accelerator == "kvm" else "max")
        yield from ("-smp", str(hardware.cpus), "-m", f"{hardware.memory_mib}M")
        yield from ("-rtc", f"base={'localtime' if hardware.is_clock_local else 'utc'}")
        if hardware.uuid is not None:
            yield from ("-uuid", hardware.uuid)
        yield from ("-device", "VGA", "-device", "usb-tablet")

    def _firmware(self) -> Iterator[str]:
        if self.efi is None:
            return
        for name, path in (("efi-code", self.efi.code), ("efi-variables", self.efi.variables)):
            file = {"driver": "file", "filename": str(path)}
            is_read_only = path == self.efi.code
            node = {"driver": "raw", "node-name": name, "read-only": is_read_only, "file": file}
            yield from ("-blockdev", json.dumps(node))

    def _consoles(self) -> Iterator[str]:
        consoles = self.consoles
        log = "" if consoles.serial_log is None else f",logfile={_escaped(consoles.serial_log)}"
        yield from ("-chardev", _socket("serial0", consoles.serial) + log)
        yield from ("-serial", "chardev:serial0")
        if consoles.vnc is not None:
            yield from ("-vnc", f"unix:{_escaped(consoles.vnc)}")
        if consoles.agent is not None:
            yield from ("-chardev", _socket("agent0", consoles.agent))
            yield from ("-device", "virtio-serial-pci", "-device")
            yield "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0"
        if consoles.qmp is not None:
            yield from ("-chardev", _socket("qmp0", consoles.qmp))
            yield from ("-mon", "chardev=qmp0,mode=control")

    def _network(self) -> Iterator[str]:
        if self.network is None:
            yield from ("-nic", "none")
            if self.has_dead_nic:
                yield from ("-device", json.dumps({"driver": self.hardware.nic, "romfile": ""}))
        else:
            yield from ("-netdev", f"{self.network.netdev},id=net0")
            device = {"driver": self.hardware.nic, "netdev": "net0", "mac": self.network.mac}
            yield from ("-device", json.dumps(device))

    def _disks(self) -> Iterator[dict[str, Any]]:
        """Yield controllers and disks. A controller that is full is followed by another one."""
        groups: dict[tuple[Bus, int], list[int]] = {}
        for number, slot in enumerate(self.slots):
            groups.setdefault((slot.bus, slot.controller), []).append(number)
        by_bus: dict[Bus, list[list[int]]] = {}
        for (bus, _), disks in sorted(groups.items(), key=lambda group: group[0][1]):
            disks.sort(key=lambda number: self.slots[number].unit)
            size = _CAPACITY[bus]
            parts = [disks[at : at + size] for at in range(0, len(disks), size)]
            by_bus.setdefault(bus, []).extend(parts)
        if sum(map(len, by_bus.values())) > _MAX_PCI_DEVICES:
            raise UsageError("the guest has more controllers than a machine of QEMU: name a --bus")
        for bus, controllers in by_bus.items():
            if bus == "ide":
                controllers = [[number for disks in controllers for number in disks]]
                if len(controllers[0]) > _CAPACITY["ide"]:
                    raise UsageError("a machine has at most 4 IDE disks: name another --bus")
            for controller, disks in enumerate(controllers):
                yield from self._controller(bus, controller, disks)

    def _controller(self, bus: Bus, controller: int, disks: list[int]) -> Iterator[dict[str, Any]]:
        name = f"{bus}{controller}"
        if bus == "nvme":
            yield {"driver": "nvme", "id": name, "serial": name}
        elif bus in _CONTROLLERS:
            yield {"driver": _CONTROLLERS[bus], "id": name}
        for unit, number in enumerate(disks):
            # A kernel that the user gives to QEMU has the index 0.
            disk: dict[str, Any] = {"drive": self.nodes[number], "bootindex": number + 1}
            if self.is_joint:
                disk["share-rw"] = True
            if bus not in ("sata", "ide"):  # They discard sectors.
                disk["discard_granularity"] = _DISCARD_BYTES
            yield {**_position(bus, name, unit), **disk}


def _position(bus: Bus, controller: str, unit: int) -> dict[str, Any]:
    """Return the driver of a disk, and its address at a controller.

    A write without space is an error of the guest, instead of a guest that is paused.
    """
    errors = {"werror": "report", "rerror": "report"}
    if bus == "virtio":
        return {"driver": "virtio-blk-pci", **errors}
    if bus == "nvme":
        return {"driver": "nvme-ns", "bus": controller, "nsid": unit + 1}
    if bus == "sata":
        return {"driver": "ide-hd", "bus": f"{controller}.{unit}", **errors}
    if bus == "ide":
        return {"driver": "ide-hd", "bus": f"ide.{unit // 2}", "unit": unit % 2, **errors}
    return {"driver": "scsi-hd", "bus": f"{controller}.0", "scsi-id": unit, **errors}


def _devices(devices: Iterable[dict[str, Any]]) -> Iterator[str]:
    for device in devices:
        yield from ("-device", json.dumps(device))


def _socket(name: str, path: Path) -> str:
    return f"socket,id={name},path={_escaped(path)},server=on,wait=off"


def _escaped(path: Path) -> str:
    """Return a path as the value of an option of QEMU, where a comma ends the value."""
    return str(path).replace(",", ",,")
