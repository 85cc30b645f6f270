"""The kernel reads further ahead in a mount than it would by itself."""

from pathlib import Path

import pytest

from cbtfs.mount.mountpoint import mount_at
from tests.mount.mount_process import Server

pytestmark = pytest.mark.mounts


def test_a_mount_that_is_ready_is_read_ahead_in_megabytes(mounted: Server) -> None:
    there = mount_at(mounted.root)
    assert there is not None
    setting = Path("/sys/class/bdi", there.device, "read_ahead_kb")
    if not setting.exists():
        pytest.skip("sysfs is not mounted, or not for this user")

    assert int(setting.read_text()) == 4096
