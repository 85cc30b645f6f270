"""The hardware of a guest, from the configuration of its VM in a point (`config.json`)."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, get_args

from cbtfs.core.manifest import Manifest
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository

log = logging.getLogger(__name__)

Bus = Literal["pvscsi", "lsi", "sas", "sata", "ide", "nvme", "virtio"]
BUSES: Final[tuple[Bus, ...]] = get_args(Bus)
Firmware = Literal["bios", "efi"]
FIRMWARES: Final[tuple[Firmware, ...]] = get_args(Firmware)

_T = TypeVar("_T")
_CONFIG: Final = "file:config"
"""Identity of the configuration in a point (cbtfs.ingest.vsphere.small_files)."""
_MEMORY_MIB: Final = 1024
_NIC: Final = "e1000"
_MAX_CONFIG_BYTES: Final = 16 << 20
_CONTROLLERS: Final[Mapping[str, Bus]] = {
    "ParaVirtualSCSIController": "pvscsi",
    "VirtualLsiLogicController": "lsi",
    "VirtualBusLogicController": "lsi",
    "VirtualLsiLogicSASController": "sas",
    "VirtualAHCIController": "sata",
    "VirtualIDEController": "ide",
    "VirtualNVMEController": "nvme",
}
_NICS: Final = {
    "VirtualVmxnet3": "vmxnet3",
    "VirtualVmxnet3Vrdma": "vmxnet3",
    "VirtualE1000": "e1000",
    "VirtualE1000e": "e1000e",
    "VirtualPCNet32": "pcnet",
}
_BOOT_CODE_BYTES: Final = 440
"""Bytes of a boot sector before the disk signature and the table of partitions."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Position of a disk: bus, number of its controller, and address there."""

    bus: Bus
    controller: int = 0
    unit: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """The parts of a VM that its guest may depend on."""

    firmware: Firmware | None = None
    """None: unknown."""
    cpus: int = 1
    memory_mib: int = _MEMORY_MIB
    slots: Mapping[str, Slot] = field(default_factory=dict)
    """Slots by the identity of the disk in the manifest."""
    nic: str = _NIC
    """Model of the first network adapter, in QEMU's words."""
    uuid: str | None = None
    is_clock_local: bool = False
    """Whether the clock of the machine has the local time: Windows expects that."""

    def slots_of(self, identities: Sequence[str]) -> list[Slot]:
        """Return the slots of disks; disks without one are on the bus of the others, or on SATA."""
        others = next(iter(self.slots.values()), Slot("sata"))
        return [
            self.slots.get(identity, Slot(others.bus, 1 << 30, number))
            for number, identity in enumerate(identities)
        ]


def load_hardware(repository: Repository, manifest: Manifest) -> Hardware:
    """Return the hardware of the VM of a point; defaults if the point has no configuration.

    Raises:
        ChunkMissing, DataCorrupt: the configuration, or the first sector of a disk, is damaged.
    """
    reader = Reader(repository, cache_bytes=0)
    for record in manifest.of_kind("file"):
        if record.identity == _CONFIG and record.size <= _MAX_CONFIG_BYTES:
            content = bytes(reader.disk(record).read(0, record.size))
            try:
                return parse_hardware(content)
            except ValueError as exc:
                log.warning("%s of point %s is ignored: %s", record.label, manifest.point, exc)
    disks = manifest.of_kind("disk")
    first = bytes(reader.disk(disks[0]).read(0, min(disks[0].size, 512))) if disks else b""
    return Hardware(firmware="bios" if any(first[:_BOOT_CODE_BYTES]) else "efi" if disks else None)


def parse_hardware(content: bytes) -> Hardware:
    """Return the hardware in a configuration; members that are absent or unknown are defaults.

    Raises:
        ValueError: it is no configuration.
    """
    try:
        document = json.loads(content)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    config = _member(document, "config", dict)
    hardware = _member(config, "hardware", dict)
    devices = [d for d in _member(hardware, "device", list) if isinstance(d, dict)]
    firmware = config.get("firmware")
    nics = [_NICS[kind] for kind in map(_kind, devices) if kind in _NICS]
    uuid, guest = config.get("uuid"), str(config.get("guestId", ""))
    return Hardware(
        firmware="efi" if firmware == "efi" else "bios",
        cpus=_positive(hardware.get("numCPU"), 1),
        memory_mib=_positive(hardware.get("memoryMB"), _MEMORY_MIB),
        slots=dict(_slots(devices)),
        nic=nics[0] if nics else _NIC,
        uuid=uuid if isinstance(uuid, str) and _is_uuid(uuid) else None,
        is_clock_local=guest.startswith("win"),
    )


def _member(document: Any, name: str, kind: type[_T]) -> _T:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"it has no member {name!r}")
    return value


def _kind(device: Mapping[str, Any]) -> str:
    return str(device.get("type", "")).rpartition(".")[2]


def _positive(value: Any, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default


def _is_uuid(text: str) -> bool:
    digits = text.replace("-", "")
    return len(text) == 36 and len(digits) == 32 and set(digits.lower()) <= set("0123456789abcdef")


def _slots(devices: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Slot]]:
    """Yield the slot of each disk under each identity that a manifest may use."""
    buses = {
        device.get("key"): (_CONTROLLERS[_kind(device)], device.get("busNumber"))
        for device in devices
        if _kind(device) in _CONTROLLERS and isinstance(device.get("key"), int)
    }
    for device in devices:
        key, controller = device.get("key"), device.get("controllerKey")
        if _kind(device) != "VirtualDisk" or not isinstance(controller, int):
            continue
        bus, number = buses.get(controller, (None, None))
        if bus is None:
            continue
        backing, unit = device.get("backing"), device.get("unitNumber")
        slot = Slot(bus, *(n if isinstance(n, int) else 0 for n in (number, unit)))
        yield f"key:{key}", slot
        uuid = backing.get("uuid") if isinstance(backing, dict) else None
        if isinstance(uuid, str):
            yield f"uuid:{uuid.lower()}", slot
