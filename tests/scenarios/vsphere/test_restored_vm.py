"""The commands in docs/vsphere.md that restore a VM, run as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.scenarios.vsphere.site import Lab

pytestmark = pytest.mark.mounts

PAGE: Final = (Path(__file__).parents[3] / "docs" / "vsphere.md").read_text("utf-8")
_PREPARE: Final = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mount --bind {folder} /srv
mkdir -p /mnt/backup /srv/images
trap 'for i in 1 2 3 4 5; do cbtfs umount /mnt/backup 2>/dev/null && break; done' EXIT
cbtfs mount --workers 1 /mnt/backup
"""


def test_a_vm_is_restored_from_its_latest_point(lab: Lab, tmp_path: Path) -> None:
    lab.write(500_000, b"on the second disk" * 1000, disk=2001)
    manifest = lab.ingest().manifest
    section = PAGE.partition("\n## Getting a VM back\n")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"^```sh\n(.*?)^```", section, re.S | re.M)
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", _PREPARE.format(folder=tmp_path) + commands],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "CBTFS_REPO": "/srv/repository",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    folder = tmp_path / "images"

    assert done.returncode == 0, done.stderr
    assert 'scsi0:1.fileName = "web1_1.vmdk"' in done.stdout
    assert "Images are identical." in done.stdout
    for disk in manifest.metadata["disks"]:
        name = disk["path"].rpartition("/")[2].replace(".vmdk", "-flat.vmdk")
        assert (folder / name).read_bytes() == lab.truth(manifest, disk)
    assert f'RW {(2 << 20) // 512} FLAT "web1-flat.vmdk"' in (folder / "web1.vmdk").read_text()
