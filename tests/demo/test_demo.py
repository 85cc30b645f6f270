"""The demo as `make demo` runs it: a guest's disk over TLS from a simulated vCenter."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.docs.documents import MemberTables
from tests.planted import Planted, console_script, environment

pytestmark = pytest.mark.mounts


def test_every_point_of_the_demo_equals_its_golden_copy(tmp_path: Path) -> None:
    """No child process imports a module that is planted in the current directory."""
    planted = Planted(tmp_path / "imported")
    path = planted.plant(tmp_path / "path", is_in_path=True)
    done = subprocess.run(
        [console_script(tmp_path), "demo", "--vsphere", "--json"],
        cwd=planted.plant(tmp_path / "here"),
        env=environment(path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, planted.imported()) == (0, []), done.stderr
    document = json.loads(done.stdout)
    tables = MemberTables()
    tables.compare("demo", document)
    points = document["points"]

    assert [point["kind"] for point in points] == ["full"] + ["incremental"] * 3
    assert all(point["same_disk"] and point["same_files"] for point in points)
    assert tables.problems == []
    assert "demo" not in {row[0] for row in tables.never_printed()}
