"""A damaged point is refused before anything is started over it, with the exit code of check."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.core.ids import NULL_DIGEST, Digest, ObjectId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.liveness import Marker
from cbtfs.qemu.objects import require_intact, require_objects
from cbtfs.reader import Reader
from cbtfs.store.catalog.records import MAP, integer_key
from cbtfs.store.catalog.view import Node, View
from cbtfs.store.repository import Repository, reading, writing
from tests.make_points import BLOCK, add_point, commit_point, new_repository, newest_point
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


def test_damaged_points_are_refused_before_a_daemon_starts(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chunk in quarantine, then a pack that is truncated, then missing."""
    before = {path: path.read_bytes() for path in site.glob("repo/packs/*/*")}
    assert run(site, capsys, "overlay", "create", "vm", "lab", f"--dir={site / 'overlays'}")[0] == 0
    damage(site / "repo", REST[:BLOCK])
    assert run(site, capsys, "check", "--read-data")[0] == 21

    assert codes(site, capsys) == {21}

    newest = max(before, key=lambda path: len(before[path]))
    newest.write_bytes(before[newest][:-1])
    assert codes(site, capsys) == {20}
    newest.unlink()
    assert codes(site, capsys) == {20}


def test_a_pack_that_the_point_does_not_need_may_be_missing(site: Path) -> None:
    packs = set(site.glob("repo/packs/*/*"))
    add_point(site / "repo", {"root": b"3" * BLOCK}, vm="other")
    (other,) = set(site.glob("repo/packs/*/*")) - packs
    other.unlink()

    with reading(site / "repo") as repository:
        points = [newest_point(repository, vm) for vm in ("vm", "other")]
        assert points[0] is not None
        assert points[1] is not None
        require_intact(repository, points[0])
        with pytest.raises(ChunkMissing, match="run 'cbtfs check'"):
            require_intact(repository, points[1])


def _root(repository: Repository, manifest: Manifest) -> ObjectId:
    root = Reader(repository).root(manifest.disks[0])
    assert root is not None
    return root.number


def test_a_root_that_is_missing_or_damaged_is_refused(site: Path) -> None:
    with writing(site / "repo") as repository:
        manifest = newest_point(repository, "vm")
        assert manifest is not None
        zeros = replace(manifest.disks[0], root=NULL_DIGEST)
        unknown = replace(zeros, root=Digest(b"x" * 32))
        require_intact(repository, replace(manifest, disks=(zeros,)))
        with pytest.raises(ChunkMissing, match="disk root: block map 7878"):
            require_intact(repository, replace(manifest, disks=(zeros, unknown)))

        key = integer_key(_root(repository, manifest))
        repository.catalog.update(lambda update: update._delete(MAP, key))
        with pytest.raises((ChunkMissing, DataCorrupt), match="run 'cbtfs"):
            require_intact(repository, manifest)


def test_the_test_of_an_intact_repository_loads_one_node_for_each_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a start does not depend on the sizes of the disks; a walk loads all nodes."""
    images = {name: name.encode() * BLOCK * 300 for name in ("a", "b")}
    images["b"] += b"c" * BLOCK
    with writing(new_repository(tmp_path / "repo")) as repository:
        manifest = commit_point(repository, images)
        loaded = []
        load = View.node

        def node(view: View, number: ObjectId, level: int, *more: Any) -> Node:
            loaded.append(level)
            return load(view, number, level, *more)

        monkeypatch.setattr(View, "node", node)
        require_intact(repository, manifest)
        assert loaded == [2, 2]

        loaded.clear()
        require_objects(repository, manifest)
        assert len(loaded) > 2


def test_a_walk_is_repeated_while_objects_move_to_new_packs(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(site / "repo") as repository:
        manifest = newest_point(repository, "vm")
        assert manifest is not None
        mark, calls = Marker.mark, list[Marker]()

        def moving(marker: Marker, *arguments: Any) -> None:
            calls.append(marker)
            if len(calls) == 1:
                commit_point(repository, {"root": b"4" * BLOCK}, vm="other")
                raise ChunkMissing("an object is in a pack that does not exist")
            mark(marker, *arguments)

        monkeypatch.setattr(Marker, "mark", moving)
        require_objects(repository, manifest)

    assert len(calls) == 2
