"""A copy has the same points, moves only what is absent, and does nothing twice."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cbtfs.check.check import check
from cbtfs.copies.points import CopyStatus, copy_points
from cbtfs.core.distrust import Distrust
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import PointState
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import DataCorrupt, ManifestsMissing, UsageError
from cbtfs.listing import points
from cbtfs.store.quarantine import corrupt_frame
from cbtfs.store.repository import reading, writing
from tests.copies.pair import Pair, content
from tests.make_points import add_point, new_repository, read_point
from tests.scenarios.repository_history import image
from tests.shared_writers import new_shared
from tests.store.folders import pack_at

TIME = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    pair.source.add(image(1, 2, 0, 4))
    pair.source.add(image(1, 2, 3, 4, 0), changed=[2, 4])
    pair.source.add(image(*range(1, 200)), vm="large")
    pair.source.add(image(*range(1, 130), 0, *range(131, 200)), vm="large", changed=[129])
    return pair


@pytest.fixture
def pair(made: Pair, tmp_path: Path) -> Pair:
    """Four points in the source, none in the target."""
    return made.duplicate(tmp_path)


def state_of(path: Path, point: PointId) -> PointState:
    with reading(path) as repository:
        return repository.points.load_state(point)[0]


def test_all_points_are_copied(pair: Pair) -> None:
    result = pair.copy()

    assert {copied.status for copied in result.points} == {CopyStatus.COPIED}
    assert pair.copied() == pair.source.expected.keys()
    pair.verify()
    assert pair.manifests(pair.target) == pair.manifests(pair.source.path)
    assert check(pair.target, read_data=True).problems == []


def test_a_second_copy_changes_nothing(pair: Pair) -> None:
    pair.copy()
    before = content(pair.target)

    result = pair.copy()

    assert {copied.status for copied in result.points} == {CopyStatus.PRESENT}
    assert (result.chunks, result.stored_bytes, result.suspects) == (0, 0, ())
    assert content(pair.target) == before


def test_a_later_point_moves_only_its_changes(pair: Pair) -> None:
    pair.copy()
    same = pair.source.add(image(*range(1, 130), 0, *range(131, 200)), vm="large", changed=[])
    assert pair.copy([same]).chunks == 0

    changed = pair.source.add(
        image(*range(1, 130), 0, *range(131, 199), 777), vm="large", changed=[198]
    )
    result = pair.copy([changed])

    assert result.chunks == 1
    pair.verify()


def test_a_copy_of_a_copy_equals_the_source(pair: Pair, tmp_path: Path) -> None:
    pair.copy()
    (tmp_path / "second").mkdir()
    second = Pair(tmp_path / "second")
    second.source.path = pair.target
    second.source.expected = pair.source.expected

    second.copy()

    second.verify()
    assert pair.manifests(second.target) == pair.manifests(pair.source.path)


def test_states_travel(pair: Pair) -> None:
    point, other, *_ = pair.source.expected
    disk = pair.source.manifests[other].disks[0].id
    with writing(pair.source.path) as repository:
        repository.put_states(
            [
                PointState(
                    point, is_protected=True, tags=("a", "b"), verified="2026-01-01T00:00:00Z"
                ),
                PointState(other, suspect="a list lied", suspect_disks=(disk,)),
            ]
        )

    pair.copy()

    # The copy was not verified in its own packs.
    assert state_of(pair.target, point) == PointState(point, is_protected=True, tags=("a", "b"))
    assert state_of(pair.target, other).suspects(disk) == "a list lied"


def test_a_point_whose_state_is_lost_arrives_suspect(pair: Pair) -> None:
    point = next(iter(pair.source.expected))
    (pair.source.path / "points" / f"{point}.state").unlink()

    pair.copy()

    assert state_of(pair.target, point).is_protected
    assert state_of(pair.target, point).suspect is not None


def test_a_suspicion_reaches_a_point_that_was_copied_before(pair: Pair) -> None:
    pair.copy()
    point = next(iter(pair.source.expected))
    with writing(pair.target) as repository:
        repository.put_states([PointState(point, tags=("mine",))])
    with writing(pair.source.path) as repository:
        repository.put_states([PointState(point, suspect="found later")])

    result = pair.copy()

    assert result.suspects == (point,)
    state = state_of(pair.target, point)
    assert state.suspects(pair.source.manifests[point].disks[0].id) == "found later"
    assert state.tags == ("mine",)
    assert pair.copy().suspects == ()


def test_distrust_of_change_lists_travels_before_its_points(pair: Pair) -> None:
    point = next(iter(pair.source.expected))
    disk = pair.source.manifests[point].disks[0].id
    record = Distrust(disk, point, 7, "52 ab/1", None, None)
    with writing(pair.source.path) as repository:
        repository.distrust.arm(record).fire()

    pair.copy([point])
    with writing(pair.target) as repository:
        assert repository.distrust.load(disk) == record
        newer = replace(record, order=9)
        repository.distrust.adopt(newer)
    pair.copy()

    with reading(pair.target) as repository:
        assert repository.distrust.load(disk) == newer


def test_a_settled_record_does_not_settle_the_one_of_the_target(pair: Pair) -> None:
    point = next(iter(pair.source.expected))
    record = Distrust(pair.source.manifests[point].disks[0].id, point, 7, None, None, None)
    with writing(pair.target) as repository:
        repository.distrust.adopt(record)
        repository.distrust.adopt(record.trusting_from(8))

        assert repository.distrust.load(record.disk) == record


def test_lists_relative_to_the_last_copied_point_are_not_trusted(pair: Pair) -> None:
    """The source may have captured later points."""
    point, *_ = pair.source.expected
    pair.copy([point])

    manifest = pair.source.manifests[point]
    with reading(pair.target) as repository, repository.catalog.view() as view:
        assert view.unproven_order(manifest.vm.id) == manifest.order


def test_a_point_that_was_forgotten_in_the_target_stays_forgotten(pair: Pair) -> None:
    point, *others = pair.source.expected
    pair.copy()
    with writing(pair.target) as repository:
        repository.forget([point])

    result = pair.copy()

    assert result.count(CopyStatus.FORGOTTEN) == 1
    assert pair.copied() == {*others}


def test_a_manifest_that_the_target_misses_is_put_back(pair: Pair) -> None:
    pair.copy()
    point = next(iter(pair.source.expected))
    (pair.target / "points" / point).unlink()
    with writing(pair.target) as repository:
        assert repository.findings.missing == {point}

    assert pair.copy().count(CopyStatus.COPIED) == 1

    pair.verify()
    with reading(pair.target) as repository, repository.catalog.view() as view:
        assert not view.missing


def test_a_point_that_the_source_misses_fails_alone(pair: Pair) -> None:
    point, *others = pair.source.expected
    (pair.source.path / "points" / point).unlink()

    result = pair.copy()

    ((_, error),) = result.failed
    assert isinstance(error, ManifestsMissing)
    assert pair.copied() == {*others}


def test_a_corrupt_chunk_fails_its_points_alone(pair: Pair) -> None:
    lonely = pair.source.add(image(5001, 5002), vm="lonely")
    (pack,) = pair.source.packs_of(lonely)
    frame = pack_at(pack).trailer()[0]
    with pack.open("r+b") as file:
        file.seek(frame.payload_offset)
        byte = file.read(1)[0]
        file.seek(frame.payload_offset)
        file.write(bytes([byte ^ 1]))

    result = pair.copy()

    ((name, error),) = result.failed
    assert name.startswith("lonely@")
    assert isinstance(error, DataCorrupt)
    assert pair.copied() == pair.source.expected.keys() - {lonely}
    pair.verify()
    assert check(pair.target, read_data=True).problems == []


def test_a_corrupt_chunk_of_the_target_is_replaced(pair: Pair) -> None:
    point = next(iter(pair.source.expected))
    pair.copy([point])
    (pack,) = (pair.target / "packs").glob("*/*")
    frame = next(frame for frame in pack_at(pack).trailer() if frame.level == 0)
    with pack.open("r+b") as file:
        file.seek(frame.payload_offset)
        file.write(b"\xff" * 8)
    with writing(pair.target) as repository:
        (identity,) = repository.packs.ids()
        repository.add_to_quarantine([corrupt_frame(identity, frame)])

    pair.copy()

    pair.verify()


def test_a_vm_whose_directory_is_taken_gets_another_one(pair: Pair) -> None:
    add_point(pair.target, {"disk": image(9)}, vm="large")

    pair.copy()

    with reading(pair.target) as repository, repository.catalog.view() as view:
        directories = [vm.directory for vm in view.vms().values() if vm.name == "large"]
    assert len({*directories}) == 2
    last = pair.source.add(image(1), vm="large")
    pair.copy()
    with reading(pair.target) as repository:
        assert repository.points.read_manifest(last).vm.directory != "large"
    assert check(pair.target, read_data=True).problems == []


def test_members_of_a_newer_program_survive(pair: Pair) -> None:
    add_point(pair.target, {"disk": image(9)}, vm="large")
    for point in pair.source.expected:
        path = pair.source.path / "points" / point
        path.write_bytes(seal({**unseal(path.read_bytes()), "novelty": {"a": [1]}}))

    pair.copy()

    for data in pair.manifests(pair.target).values():
        document = unseal(data)
        if document["program"] != "tests" or "novelty" in document:
            assert document.get("novelty") == {"a": [1]}
    assert sum("novelty" in unseal(d) for d in pair.manifests(pair.target).values()) == 4


def test_points_that_both_captured_are_refused(pair: Pair) -> None:
    point, *_ = pair.source.expected
    pair.copy([point])
    rival = replace(pair.source.manifests[point], point=PointId("d" * 32), order=2, name="rival")
    with writing(pair.target) as repository:
        objects = repository.object_writer()
        repository.commit(objects, rival)
        objects.close()

    result = pair.copy()

    ((_, error),) = result.failed
    assert isinstance(error, UsageError)
    assert rival.point in str(error)


def test_the_command_prints_counts(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.command("--dry-run") == 0
    assert "4 points would be copied, 0 were there" in capsys.readouterr().out
    assert pair.copied() == set()

    assert pair.command("vm", "large@latest") == 0
    assert "3 points copied, 0 were there" in capsys.readouterr().out
    assert pair.command("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["copied"], document["present"], document["failed"]) == (1, 3, 0)
    pair.verify()


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nobody"], 13), (["large@2001-01-01"], 13), (["l*"], 0)],
)
def test_names_mean_points_or_vms(pair: Pair, words: list[str], code: int) -> None:
    assert pair.command(*words) == code

    assert len(pair.copied()) == (2 if code == 0 else 0)


def test_a_failed_point_is_a_partial_success(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    (pair.source.path / "points" / next(iter(pair.source.expected))).unlink()

    assert pair.command() == 3
    assert "lacks its manifest" in capsys.readouterr().err


def test_a_repository_is_not_copied_to_itself(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink(pair.source.path, pair.target.with_name("link"))
    pair.target = pair.target.with_name("link")

    assert pair.command() == 2
    assert "is the repository itself" in capsys.readouterr().err


def test_a_target_that_another_writer_holds_is_refused(pair: Pair) -> None:
    with writing(pair.target):
        assert pair.command() == 11


def test_captures_at_once_are_both_copied(tmp_path: Path) -> None:
    """Two writers that commit at the same moment choose the same order and name."""
    source, target = new_shared(tmp_path / "source"), new_repository(tmp_path / "target")
    first = add_point(source, {"disk": image(1)})
    second = add_point(
        source, {"disk": image(2)}, change=lambda m: replace(m, order=first.order, name=first.name)
    )
    with reading(source) as ours, writing(target) as theirs:
        with ours.catalog.view() as view:
            listed = list(points(view))
        done = copy_points(ours, theirs, listed).points

    assert {copied.status for copied in done} == {CopyStatus.COPIED}
    for point, disk in (first, image(1)), (second, image(2)):
        assert read_point(target, point) == {"disk": disk}
