"""The configuration of a machine without its disks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

VM_LEVEL_KEY = "ctkEnabled"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """The configuration of a machine. It is immutable, so a snapshot can keep a reference."""

    name: str
    instance_uuid: str
    bios_uuid: str
    hardware: int = 19  # the NN of vmx-NN
    template: bool = False
    guest_id: str = "ubuntu64Guest"
    memory_mib: int = 2048
    cpus: int = 2
    annotation: str = ""
    cbt: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def can_track(self) -> bool:
        """Whether CBT is available: it needs virtual hardware 7 (VMware KB 1020128)."""
        return self.hardware >= 7

    def tracks(self, slot: str) -> bool:
        """Return whether the settings enable tracking of the disk in *slot*, such as scsi0:0."""
        return self.cbt and self.extra.get(f"{slot}.{VM_LEVEL_KEY}", "").upper() == "TRUE"
