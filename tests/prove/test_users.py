"""`prove`, `bisect` and `blame` by a user without privileges."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.mount.test_users import USER, home, run
from tests.prove.images import MIB, make_bootable, make_dirty_ext4, make_dirty_xfs, overwrite

__all__ = ["home"]  # fixtures
pytestmark = pytest.mark.mounts

SUPERBLOCK: Final = 1024
_BEFORE: Final = """
mkdir user/tmp
export TMPDIR=$PWD/user/tmp
test "$(id --user) $(grep CapEff: /proc/self/status | cut -f2)" = "{user} 0000000000000000"
"""
_AFTER: Final = """
ls user/tmp
grep user/tmp /proc/mounts || true
"""
SEARCH: Final = "bisect web --json -- dumpe2fs -h {point}/slices/root.p1.raw > user/search"


def _make_disks(folder: Path) -> list[Path]:
    """Make a guest whose journal is to be replayed, a larger one, and one that is broken."""
    disks = [folder / name for name in ("first", "larger", "broken")]
    data = make_bootable(disks[0], "web01 login: ", make_dirty_ext4).read_bytes()
    disks[1].write_bytes(data + bytes(MIB))
    disks[2].write_bytes(data)
    overwrite(disks[2], MIB + SUPERBLOCK, bytes(1024))
    return disks


def _ends(home: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of the user, which leaves no file and no mount."""
    done = run(home, _BEFORE.format(user=USER) + script + _AFTER)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [], "the first line is of 'init'"
    return done


def _document(home: Path, name: str) -> Any:
    return json.loads((home / "user" / name).read_text())


@pytest.mark.limit(1200)
def test_a_user_proves_all_levels_searches_and_blames(home: Path) -> None:
    _make_disks(home / "user")
    xfs = ""
    if os.environ.get("CBTFS_BOOTS") == "all":  # The recovery builds and boots an appliance.
        make_dirty_xfs(home / "user" / "xfs")
        xfs = "cbtfs ingest image --vm xfs --disk root user/xfs >/dev/null; cbtfs prove xfs -q"

    done = _ends(
        home,
        f"""
        for name in first larger broken; do
            cbtfs ingest image --vm web --disk root user/$name >/dev/null
        done
        cbtfs prove web@latest~1 --level 4 --boot-timeout 2m --json > user/proof
        cbtfs show web@proven --json > user/shown
        cbtfs {SEARCH}
        cbtfs blame web root --json > user/blame
        {xfs}
        """,
    )

    (proven,) = _document(home, "proof")["proven"]
    assert (proven["passed"], proven["proof"]["verdict"]) == (True, "prompt"), done.stderr
    texts = [part["text"] for part in proven["parts"]]
    assert texts[:2] == ["ext4, to be recovered", "ext4 after a recovery"]
    shown = _document(home, "shown")
    assert (shown["id"], shown["proof"]["level"]) == (proven["point"], 4)
    search = _document(home, "search")
    assert search["last_good"]["point"] == proven["point"]
    ends = {item["point"] for item in search["runs"][:2]}
    assert {item["point"] for item in _document(home, "blame")} == ends
