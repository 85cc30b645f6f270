"""One appliance for all tests of this package: each start takes 10 to 25 seconds."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cbtfs.appliance import ApplianceStarter
from cbtfs.core.manifest import Manifest
from cbtfs.files.engine_appliance.engine import Appliance
from tests.files.guest_trees import APPLIANCE_SHAPES, MIB, Written, make_by, write_tree
from tests.make_points import add_point, new_repository

KEY: Final = "secret-passphrase"
_DISKS: Final = {"root": 176, "second": 40, "array1": 24, "array2": 24}
"""MiB of the disks that an appliance writes."""
_FSTAB: Final = (
    "/dev/sda1 / btrfs subvol=@ 0 0\\n"
    "/dev/sda1 /home btrfs subvol=/@home 0 0\\n"
    "/dev/vg0/thin /srv ext4\\n"
)
_LUKS_FORMAT: Final = (
    "cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
)
"""The usual function takes seconds without emulation."""
_SCRIPT: Final = f"""
run
part-init /dev/sda gpt
part-add /dev/sda p 2048 239615
part-add /dev/sda p 239616 280575
part-add /dev/sda p 280576 -2048
mkfs btrfs /dev/sda1
mkmountpoint /v
mount /dev/sda1 /v
btrfs-subvolume-create /v/@
btrfs-subvolume-create /v/@home
mkdir /v/@/etc
mkdir /v/@/home
mkdir /v/@/srv
write /v/@/etc/fstab "{_FSTAB}"
write /v/@home/letter "Dear Bob"
ln /v/@home/letter /v/@home/second-name
umount /v
debug sh "udevadm settle; printf {KEY} | {_LUKS_FORMAT} /dev/sda2 - 2>&1"
luks-open /dev/sda2 opened
{KEY}
mkfs ext4 /dev/mapper/opened label:secrets
mount /dev/mapper/opened /v
write /v/diary "Dear diary"
umount /v
pvcreate /dev/sda3
pvcreate /dev/sdb
vgcreate vg0 "/dev/sda3 /dev/sdb"
debug sh "lvcreate -y --type thin-pool -L 64M vg0/pool 2>&1"
debug sh "lvcreate -y --thin -V 1G -n thin vg0/pool 2>&1"
mkfs ext4 /dev/vg0/thin
mount /dev/vg0/thin /v
write /v/page "thin"
umount /v
md-create array "/dev/sdc /dev/sdd" level:raid1
mkfs ext4 /dev/md127
mount /dev/md127 /v
write /v/mirrored "twice"
umount /v
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A point with file systems for the appliance, and its appliance."""

    repository: Path
    manifest: Manifest
    appliance: Appliance
    written: dict[str, Written]
    """File systems of the conformance suite by their disk."""


@pytest.fixture(scope="package")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    for name, mib in _DISKS.items():
        with (folder / name).open("wb") as file:
            file.truncate(mib * MIB)
    drives = [word for name in _DISKS for word in ("-a", str(folder / name))]
    done = subprocess.run(
        ["guestfish", "--format=raw", "--keys-from-stdin", *drives],
        input=_SCRIPT,
        text=True,
        check=False,
        capture_output=True,
        env={
            "PATH": os.environ["PATH"],
            "LIBGUESTFS_BACKEND": "direct",
            "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        },
    )
    assert done.returncode == 0, done.stderr
    written = {}
    for shape, (mib, command) in APPLIANCE_SHAPES.items():
        make_by(folder / shape, command, mib)
        written[shape] = write_tree(folder / shape, is_busy=shape != "appliance-btrfs")
    images = {name: (folder / name).read_bytes() for name in (*_DISKS, *APPLIANCE_SHAPES)}
    repository = new_repository(folder / "repository", 1 << 16)
    manifest = add_point(repository, images, vm="web01")
    with ApplianceStarter(repository, [KEY])(manifest) as appliance:
        yield Machine(repository, manifest, appliance, written)
