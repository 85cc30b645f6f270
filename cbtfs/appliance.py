"""An appliance for the files of a point: its disks from a mount of its own, and KVM if it works."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbtfs.core.filenames import RAW, disk_names
from cbtfs.core.manifest import Manifest
from cbtfs.files.engine_appliance.engine import Appliance, Setting
from cbtfs.files.engine_appliance.install import require_appliance
from cbtfs.mount.private import private_mount
from cbtfs.mount.scratch import scratch_directory
from cbtfs.qemu.accelerator import has_kvm

_PREFIX = "cbtfs-appliance-"


@dataclass(frozen=True, slots=True)
class ApplianceStarter:
    """Starts appliances for points of a repository."""

    repository: Path
    keys: Sequence[str] = ()
    """Keys that are tried for encrypted volumes."""

    @contextmanager
    def __call__(self, manifest: Manifest) -> Iterator[Appliance]:
        """Run an appliance with all disks of a point until the end of the block.

        Raises:
            UsageError: a package is missing.
            EngineFailed: the appliance does not start.
            CbtfsError: the point cannot be mounted.
        """
        require_appliance()
        names = disk_names(manifest.disks)
        with private_mount(self.repository) as mounted, scratch_directory(_PREFIX) as folder:
            disks = [
                (name.removesuffix(RAW), mounted.path(manifest, record))
                for name, record in zip(names, manifest.disks, strict=True)
                if record.kind == "disk"
            ]
            setting = Setting(disks, folder, self.keys, is_emulated=not has_kvm())
            with closing(Appliance(setting)) as appliance:
                yield appliance
