"""A manifest that is restored after a prune is readable as far as its packs still exist."""

import os
import shutil
from pathlib import Path

import pytest

from cbtfs.check.check import check
from cbtfs.core.frame import Kind
from cbtfs.core.ids import PointId
from cbtfs.errors import ChunkMissing
from cbtfs.prune.select import PruneLimits
from cbtfs.repair import repair
from cbtfs.store.catalog.update import Update
from cbtfs.store.repository import reading, writing
from tests.scenarios.repository_history import History, image

KEEP_PACKS = PruneLimits(unused_share=1.0)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Return three points in one pack each; the second needs part of the first one's pack."""
    history = History(tmp_path / "repo")
    history.add(image(*range(100, 110)))
    history.add(image(*range(105, 115)), changed=range(10))
    history.add(image(*range(300, 310)))
    return history


def forget_and_prune(history: History) -> Path:
    """Forget and prune the first point; return a copy of its manifest."""
    point = next(iter(history.expected))
    manifest = history.path / "points" / point
    shutil.copy(manifest, history.path.parent)
    shutil.copy(f"{manifest}.state", history.path.parent)
    expected = history.expected[point]
    history.forget(point)
    history.prune(KEEP_PACKS)
    history.expected[point] = expected
    return history.path.parent / point


def put_back(history: History, manifest: Path) -> None:
    forgotten = history.path / "points" / f"{manifest.name}.forgotten"
    forgotten.unlink(missing_ok=True)
    for name in (f"{manifest.name}.state", manifest.name):
        shutil.copy(manifest.with_name(name), history.path / "points")


def test_catching_up_finds_objects_that_a_prune_dropped_from_the_catalog_alone(
    history: History,
) -> None:
    manifest = forget_and_prune(history)
    put_back(history, manifest)

    history.verify()
    report = check(history.path, read_data=True)

    assert report.problems == []
    report.raise_worst()


def test_a_pack_that_is_gone_is_still_missed(history: History) -> None:
    (pack,) = history.packs_of(next(iter(history.expected)))
    manifest = forget_and_prune(history)
    pack.unlink()
    put_back(history, manifest)

    report = check(history.path, read_data=True)

    with pytest.raises(ChunkMissing, match=r"found: run 'cbtfs repair'.* restore the named files"):
        report.raise_worst()


def test_a_catalog_that_lacks_the_map_of_a_known_point_is_cured_by_the_repair_that_check_names(
    history: History,
) -> None:
    manifest = forget_and_prune(history)
    put_back(history, manifest)
    _know_the_point_alone(history, manifest)
    report = check(history.path, read_data=False)
    with pytest.raises(ChunkMissing, match="found: run 'cbtfs repair', then check again"):
        report.raise_worst()

    repair(history.path)

    history.verify()
    assert check(history.path, read_data=True).problems == []


def _know_the_point_alone(history: History, manifest: Path) -> None:
    """Apply the manifest like an earlier version, without looking for its objects."""
    root = history.manifests[PointId(manifest.name)].disks[0].root

    def change(update: Update) -> None:
        number = update.find(Kind.NODE, 1, root)
        assert number is not None
        location = update.location(number)
        assert location is not None
        update.keep_numbers()
        update.drop_objects([(number, location)])

    with writing(history.path) as repository:
        repository.catalog.update(change)


def test_a_tree_of_hard_links_shows_points_that_were_pruned_in_the_other(history: History) -> None:
    """Hard links are not a copy, because the trees share a catalog. Still no read is wrong."""
    linked = history.path.with_name("linked")
    shutil.copytree(history.path, linked, copy_function=os.link)
    original = history.path
    expected = dict(history.expected)
    forget_and_prune(history)
    history.path, history.expected = linked, expected

    history.verify()
    assert check(linked, read_data=True).problems == []

    history.path = original  # The other tree has added the point to the shared catalog.
    history.verify()
    with reading(original) as repository, repository.catalog.view() as view:
        assert view.missing == {next(iter(expected))}


def test_an_unresolved_root_is_looked_for_once(history: History) -> None:
    manifest = forget_and_prune(history)
    put_back(history, manifest)
    with writing(history.path) as repository:
        assert repository.findings.objects_added > 0
    with writing(history.path) as repository:
        assert repository.findings.is_empty
    with reading(history.path) as repository, repository.catalog.view() as view:
        assert set(view.point_ids()) == set(history.expected)
