"""A damaged point is refused before anything is started over it, with the exit code of check."""

import json
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from tests.make_points import BLOCK, add_point, new_repository
from tests.restore.test_several_disks import damage

WEB = b"1" * BLOCK
REST = b"2" * BLOCK * 40


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a directory with a repository, whose second point adds a pack of chunks."""
    repository = new_repository(tmp_path / "repo")
    add_point(repository, {"root": WEB})
    add_point(repository, {"root": WEB + REST}, changed={"root": range(1, 41)})
    (tmp_path / "sockets").mkdir()
    return tmp_path


def run(site: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([f"--repo={site / 'repo'}", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def codes(site: Path, capsys: pytest.CaptureFixture[str]) -> set[int]:
    """Return the exit codes of all commands that serve the newest point."""
    overlay = f"--dir={site / 'overlays'}"
    commands = [
        ("export", "vm", f"--socket={site / 'sockets'}"),
        *(("overlay", action, "lab", overlay) for action in ("start", "boot", "commit")),
    ]
    return {run(site, capsys, *command)[0] for command in commands}


def test_a_chunk_in_quarantine_and_a_missing_pack_are_refused(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in site.glob("repo/packs/*/*")}
    assert run(site, capsys, "overlay", "create", "vm", "lab", f"--dir={site / 'overlays'}")[0] == 0
    damage(site / "repo", REST[:BLOCK])
    assert run(site, capsys, "check", "--read-data")[0] == 21

    assert codes(site, capsys) == {21}

    newest = max(before, key=lambda path: len(before[path]))
    newest.unlink()
    assert codes(site, capsys) == {20}
