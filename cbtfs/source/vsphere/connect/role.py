"""The privileges that the user of a backup needs; docs/vsphere.md shows the same list.

Names and purposes: vSphere Web Services API reference (the privilege of each method), VDDK
Programming Guide, "Required privileges".
"""

from dataclasses import dataclass
from typing import Final, Literal

On = Literal["vm", "datastore", "root"]
"""The object on which the privilege is needed; objects below inherit a grant."""

Use = Literal[
    "always", "enable", "datastore", "nfc", "vddk", "hold", "export", "upgrade", "setting"
]
"""The use of a privilege: every capture, enabling CBT, the transport `datastore`, the transport
`nfc`, VMware's library, disabling storage vMotion during a capture, the transport `httpnfc`,
--upgrade-hardware, setting
ctkEnabled of a disk."""


@dataclass(frozen=True, slots=True)
class Privilege:
    """One privilege with its use."""

    id: str
    on: On
    use: Use
    purpose: str
    also: frozenset[Use] = frozenset()
    """Other uses."""

    def is_for(self, uses: frozenset[Use]) -> bool:
        """Return whether one of *uses* needs the privilege."""
        return self.use in uses or not uses.isdisjoint(self.also)


_FILES: Final = "the VM's small files; transport `datastore`"
_LIBRARY: Final = "transports `vddk`, and `nbd` by nbdkit"
_TICKET: Final = "transports `nfc`, `vddk`, and `nbd` by nbdkit"
_HOLD: Final = "transport `vddk`: no storage vMotion meanwhile"

ROLE: Final = (
    Privilege("System.Read", "vm", "always", "inventory, events (in every role)"),
    Privilege("VirtualMachine.Config.ChangeTracking", "vm", "enable", "enabling CBT"),
    Privilege("VirtualMachine.State.CreateSnapshot", "vm", "always", "the snapshot"),
    Privilege("VirtualMachine.State.RemoveSnapshot", "vm", "always", "its removal, consolidation"),
    Privilege(
        "VirtualMachine.Provisioning.DiskRandomRead",
        "vm",
        "always",
        "`QueryChangedDiskAreas`; reading by VMware's library",
    ),
    Privilege("Datastore.Browse", "datastore", "datastore", _FILES),
    Privilege("Datastore.FileManagement", "datastore", "datastore", _FILES),
    Privilege(
        "VirtualMachine.Provisioning.GetVmFiles",
        "vm",
        "nfc",
        _TICKET,
        frozenset({"vddk"}),
    ),
    Privilege("VirtualMachine.Config.DiskLease", "vm", "vddk", _LIBRARY),
    Privilege("Global.Licenses", "root", "vddk", _LIBRARY),
    Privilege("Global.DisableMethods", "root", "hold", _HOLD),
    Privilege("Global.EnableMethods", "root", "hold", _HOLD),
    Privilege("VApp.Export", "vm", "export", "transport `httpnfc`"),
    Privilege(
        "VirtualMachine.Config.UpgradeVirtualHardware",
        "vm",
        "upgrade",
        "`--upgrade-hardware` only",
    ),
    Privilege(
        "VirtualMachine.Config.AdvancedConfig",
        "vm",
        "setting",
        "`cbt enable` of a disk whose own `ctkEnabled` is FALSE",
    ),
)
