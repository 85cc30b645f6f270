"""Points become suspect together with all points that have their blocks."""

from dataclasses import replace
from pathlib import Path

from cbtfs.core.manifest import IngestKind, Manifest
from cbtfs.ingest.baseline import Baseline
from cbtfs.ingest.suspect_points import suspect_since_full
from cbtfs.listing import points
from cbtfs.store.repository import Repository, writing
from tests.make_points import commit_point, new_repository

IMAGE = {"root": b"1" * 4096, "data": b"2" * 4096}


def commit(repository: Repository, vm: str, parent: Manifest | None, kind: IngestKind) -> Manifest:
    """Commit a point whose disks were read relative to *parent*."""

    def change(manifest: Manifest) -> Manifest:
        above = None if parent is None else parent.point
        disks = [replace(disk, ingest=kind, parent=above) for disk in manifest.disks]
        return replace(manifest, disks=tuple(disks))

    return commit_point(repository, IMAGE, vm=vm, change=change)


def test_commits_of_overlays_of_suspect_points_become_suspect(tmp_path: Path) -> None:
    with writing(new_repository(tmp_path / "repo")) as repository:
        full = commit(repository, "web01", None, "full")
        wrong = commit(repository, "web01", full, "incremental")
        of_full = commit(repository, "web01+a", full, "incremental")
        of_wrong = commit(repository, "web01+b", wrong, "incremental")
        above = commit(repository, "web01+b+c", of_wrong, "incremental")
        scanned = commit(repository, "web01+b", of_wrong, "full")
        with repository.catalog.view() as view:
            (point,) = [p for p in points(view, wrong.vm.id) if p.manifest.point == wrong.point]
        base = Baseline(point, wrong.disks[0], is_last_committed=True)

        marked = suspect_since_full(repository, wrong.vm.id, base, "blocks were missed")

        assert marked == [wrong.point]
        states = {
            manifest.point: repository.points.load_state(manifest.point)[0]
            for manifest in (full, wrong, of_full, of_wrong, above, scanned)
        }
    suspect = {point for point, state in states.items() if state.suspect is not None}
    assert suspect == {wrong.point, of_wrong.point, above.point}
    for manifest in (wrong, of_wrong, above):
        root, data = manifest.disks
        assert states[manifest.point].suspects(root.id)
        assert states[manifest.point].suspects(data.id) is None
