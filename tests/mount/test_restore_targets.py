"""A file of a mount of cbtfs is never the target of a restore."""

from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.cli.run_cbtfs import runner
from tests.mount.mount_process import Server

pytestmark = pytest.mark.mounts


def test_a_restore_in_place_onto_a_mounted_point_is_refused(
    mounted: Server,
    repository: Path,
    point: Manifest,
    image: bytearray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = mounted.disk(point)

    done = runner(repository, capsys)("restore", "--in-place", "vm", "disk", target)

    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "is in a mount of cbtfs" in done.err
    assert target.read_bytes() == image
