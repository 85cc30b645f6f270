"""Commands and mount show a suspect point as suspect."""

import json
from pathlib import Path
from typing import Any

import pytest

from cbtfs.store.repository import writing
from tests.cli.run_cbtfs import process
from tests.ingest.audit.silent_tracker import a_disk, take_silent, write_block
from tests.ingest.fake_disks import lose_catalog
from tests.make_points import new_repository
from tests.mount.mount_process import serving, wait_until

pytestmark = pytest.mark.mounts

REASON = "disk A: change tracking missed 1 blocks"


def shown(repository: Path, *arguments: str) -> Any:
    done = process("--repo", repository, *arguments, "--json")
    assert done.code == 0, done.err
    return done.document


def test_a_suspect_mark_is_shown_everywhere_and_survives_a_rebuild(tmp_path: Path) -> None:
    repository, disk = new_repository(tmp_path / "repository"), a_disk(20)
    root = tmp_path / "mount"
    take_silent(repository, disk)
    write_block(disk, 7, "not told")
    wrong = take_silent(repository, disk, {7}, audit=None)
    with serving(repository, root) as server:
        vm_json = server.folder(wrong) / "vm.json"
        assert json.loads(vm_json.read_bytes())["state"]["suspect"] is None
        manifest = take_silent(repository, disk, {7})

        assert wait_until(
            lambda: REASON in str(json.loads(vm_json.read_bytes())["state"]["suspect"])
        )
        status = process("status", "--json", root).document
        (suspect,) = status["suspect"]
        assert (suspect["vm"], suspect["point"]) == ("vm", wrong.point)
        line = f"suspect     vm@{wrong.name} (point {wrong.point})"
        assert line in process("status", root).out
        newest = json.loads((root / "vm" / "latest" / "vm.json").read_bytes())
        assert (newest["point"], newest["state"]["suspect"]) == (manifest.point, None)
    for _ in range(2):
        points = shown(repository, "list")["points"]
        assert [point["state"] for point in points] == [[], ["suspect"], []]
        assert REASON in shown(repository, "show", wrong.point)["suspect"]
        assert shown(repository, "show", manifest.point)["suspect"] is None
        lose_catalog(repository)
        with writing(repository):
            pass
