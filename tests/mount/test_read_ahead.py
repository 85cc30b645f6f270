"""A mount raises the kernel's read-ahead."""

from pathlib import Path

import pytest

from cbtfs.mount.mounts import mount_at
from tests.mount.mount_process import Server

pytestmark = pytest.mark.mounts


def test_the_read_ahead_of_a_mount_is_4_mib(mounted: Server) -> None:
    mount = mount_at(mounted.root)
    assert mount is not None
    setting = Path("/sys/class/bdi", mount.device, "read_ahead_kb")
    if not setting.exists():
        pytest.skip("sysfs is not mounted, or not for this user")

    assert int(setting.read_text()) == 4096
