"""The main job, as `make demo` runs it: a guest's disk over TLS from a simulated vCenter."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.mounts


def test_the_demo_finds_every_point_to_be_what_the_disk_was() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cbtfs", "demo", "--vsphere", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert [point["kind"] for point in points] == ["full"] + ["incremental"] * 3
    assert all(point["same_disk"] and point["same_files"] for point in points)
