"""docs/getting-started.md: its commands, as printed, against a simulated vCenter.

They run in a mount namespace with its own /etc, /srv, /mnt and /var/tmp. Its /etc/hosts gives the
name of the page's vCenter to a loopback address, where the simulator serves on port 443.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tools.vsim import (
    DiskEntry,
    HostEntry,
    Inventory,
    Listen,
    MachineEntry,
    Simulator,
    UserEntry,
)
from tools.vsim.soap.certificate import make_certificate

pytestmark = pytest.mark.mounts

PAGE: Final = (Path(__file__).parents[2] / "docs" / "getting-started.md").read_text("utf-8")
COMMANDS: Final = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M))
SERVER: Final = "vc1.example"
_PID: Final = os.getpid()
ADDRESS: Final = f"127.{64 + (_PID >> 16) % 128}.{_PID >> 8 & 255}.{_PID & 255}"
"""A loopback address that no other test process uses."""
PASSWORD: Final = "correct horse"
SIZE: Final = 8 << 20
_PREPARE: Final = """\
set -e
mount --make-rprivate /
mount --bind {folder}/etc /etc
mount --bind {folder}/srv /srv
mount -t tmpfs tmpfs /mnt
mount -t tmpfs tmpfs /var/tmp
trap 'umount -q /mnt/look || true
    umount -q /var/tmp/*/slice.raw || true
    kill $(cat /var/tmp/*/pid) 2>/dev/null || true
    for i in 1 2 3 4 5; do cbtfs umount /mnt/backup 2>/dev/null && break; done' EXIT
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the /etc and the /srv of the script, and the disk of the VM."""
    shutil.copytree("/etc", tmp_path / "etc", symlinks=True)
    (tmp_path / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {SERVER} esx1\n")
    shutil.rmtree(tmp_path / "etc" / "cbtfs", ignore_errors=True)
    (tmp_path / "srv").mkdir()
    tree = tmp_path / "tree" / "etc"
    tree.mkdir(parents=True)
    (tree / "hostname").write_text("guest-of-web1\n")
    disk = tmp_path / "web1.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    for command in (
        ["sfdisk", "--quiet", "--label=gpt", str(disk)],
        ["mkfs.ext4", "-q", "-d", str(tree.parent), "-E", "offset=1048576", str(disk), "6M"],
    ):
        subprocess.run(command, input=b"start=2048\n", check=True)
    return tmp_path


@pytest.fixture
def sim(folder: Path) -> Iterator[Simulator]:
    names = f"DNS:{SERVER},IP:{ADDRESS}"
    certificate = make_certificate(folder, names=names)
    inventory = Inventory(
        users=(UserEntry("backup@vsphere.local", PASSWORD),),
        hosts=(HostEntry("esx1"),),
        machines=(MachineEntry("web1", disks=(DiskEntry(file=folder / "web1.raw"),)),),
    )
    listen = Listen(ADDRESS, 443)
    with Simulator(inventory, listen=listen, certificate=certificate) as sim:
        yield sim


def test_the_commands_lead_from_a_vcenter_to_a_file(sim: Simulator, folder: Path) -> None:
    trust = f"install -D {sim.certificate.certificate} /etc/cbtfs/vc1-ca.pem\n"
    script = _PREPARE.format(folder=folder) + trust + COMMANDS
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        input=f"{PASSWORD}\n",
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"^/DC0/vm/web1: by nfc$", done.stdout, re.M)
    assert re.findall(r"^web1 .* (full|incremental) ", done.stdout, re.M) == [
        "full",
        "incremental",
    ]
    assert "Hard disk 1.raw" in done.stdout
    assert (folder / "srv" / "hostname").read_text() == "guest-of-web1\n"
    restored = (folder / "srv" / "images" / "web1.raw").read_bytes()
    assert restored == (folder / "web1.raw").read_bytes()
