"""How many disks a restore point may have."""

from pathlib import Path

from cbtfs.core.manifest import MAX_DISKS
from tests.cli.run_cbtfs import Run


def test_more_disks_than_the_mount_can_show_are_refused(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    """Before anything is read."""
    (tmp_path / "disk").write_bytes(b"content")
    disks = [f"--disk=d{number}={tmp_path / 'disk'}" for number in range(MAX_DISKS + 1)]

    done = run("ingest", "image", "--vm=vm", *disks)

    assert done.code == 2
    assert "has 4094 disks and small files, a restore point has at most 4093" in done.err
    assert list((repository / "points").glob("*[0-9a-f]")) == []
