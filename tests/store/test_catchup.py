"""Opening for writing brings the catalog in step with packs and points."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest

from cbtfs import listing
from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, ObjectId, PackId, PointId, Ref
from cbtfs.core.manifest import Manifest, decode_manifest
from cbtfs.errors import CbtfsError, ChunkMissing, StoreFailed
from cbtfs.store.catalog.environment import ENGINE, Environment
from cbtfs.store.catalog.records import META, close_value, number_key
from cbtfs.store.catalog.view import SCHEMA, SCHEMA_VERSION
from cbtfs.store.catchup import Findings
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest, digest_of, node_content
from cbtfs.store.identity import new_pack_id
from cbtfs.store.repository import reading, writing
from tests.ingest.fake_disks import forget
from tests.make_points import BLOCK, add_point, new_repository, read_image
from tests.store.crashes import CATCH_UP, Crash, Step, crashing
from tests.store.folders import packs_at

RAW = random.Random(5).randbytes(8 * BLOCK)


class Point(NamedTuple):
    manifest: Manifest
    image: bytes


class History(NamedTuple):
    path: Path
    points: list[Point]


def image(changes: dict[int, bytes]) -> bytes:
    disk = bytearray(130 * BLOCK)
    for block, content in changes.items():
        disk[block * BLOCK : (block + 1) * BLOCK] = content.ljust(BLOCK, b".")
    return bytes(disk)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Return three points with separate packs; the last two share all blocks except one."""
    path = new_repository(tmp_path / "repo")
    first = {0: b"a", 1: RAW[:BLOCK], 64: b"b", 129: b"c"}
    second = first | {1: RAW[BLOCK : 2 * BLOCK]}
    third = second | {70: b"d"}
    points = [Point(add_point(path, {"disk": image(first)}), image(first))]
    for content, block in ((second, 1), (third, 70)):
        manifest = add_point(path, {"disk": image(content)}, changed={"disk": [block]})
        points.append(Point(manifest, image(content)))
    return History(path, points)


def open_and_settle(path: Path) -> Findings:
    with writing(path) as repository:
        return repository.findings


def outcomes(history: History) -> list[bool]:
    """Return whether each point is readable; a wrong byte fails the test."""
    readable = []
    with reading(history.path) as repository:
        for point in history.points:
            try:
                assert read_image(repository, point.manifest.disks[0]) == point.image
                readable.append(True)
            except CbtfsError:
                readable.append(False)
    return readable


def damaged(path: Path) -> list[bool]:
    """Return whether listings mark each point as damaged."""
    with reading(path) as repository, repository.catalog.view() as view:
        return [point.is_damaged for point in listing.points(view)]


def packs_of(path: Path) -> list[Path]:
    """Return closed packs, the oldest first."""
    return sorted(path.glob("packs/*/" + "?" * 32), key=lambda pack: pack.stat().st_mtime_ns)


def numbers(path: Path) -> dict[ObjectId, Digest]:
    with writing(path) as repository, repository.catalog.view() as view:
        return {number: place.frame.digest for number, place in view.all_locations()}


def generation(path: Path) -> bytes:
    with reading(path) as repository, repository.catalog.view() as view:
        return view.generation


def write_pack(path: Path, objects: list[tuple[Kind, int, bytes]]) -> Path:
    """Write a closed pack with these objects, which the catalog does not know."""
    folder = packs_at(path / "packs")
    pack = folder.create(new_pack_id())
    for kind, level, content in objects:
        pack.append(Encoder().encode(kind, level, digest_of(kind, level, content), content))
    pack.close()
    return folder.path(pack.id)


def node_over(*children: Digest) -> bytes:
    return node_content([*children, *[None] * (FANOUT - len(children))])


def frames(path: Path) -> Iterator[tuple[Path, Frame]]:
    folder = packs_at(path / "packs")
    for pack in packs_of(path):
        for frame in folder.frames(PackId(pack.name))[0]:
            yield pack, frame


def test_a_catalog_in_step_is_left_alone(history: History) -> None:
    before = generation(history.path)

    assert open_and_settle(history.path).is_empty
    assert generation(history.path) == before


def test_a_lost_catalog_is_rebuilt(history: History) -> None:
    shutil.rmtree(history.path / "catalog")

    findings = open_and_settle(history.path)

    assert findings.packs_added == 3
    assert findings.points_added == 3
    assert outcomes(history) == [True] * 3


def test_a_rebuilt_catalog_lists_the_same(history: History) -> None:
    with reading(history.path) as repository, repository.catalog.view() as view:
        before = list(listing.points(view))
    shutil.rmtree(history.path / "catalog")

    with reading(history.path) as repository, repository.catalog.view() as view:
        assert list(listing.points(view)) == before


def test_an_old_catalog_catches_up(history: History, tmp_path: Path) -> None:
    shutil.copytree(history.path / "catalog", tmp_path / "old")
    late = image({0: b"late", 3: RAW[3 * BLOCK : 4 * BLOCK]})
    history.points.append(Point(add_point(history.path, {"disk": late}), late))
    shutil.rmtree(history.path / "catalog")
    shutil.copytree(tmp_path / "old", history.path / "catalog")
    before = generation(tmp_path_repository(history, tmp_path))

    findings = open_and_settle(history.path)

    assert (findings.packs_added, findings.points_added) == (1, 1)
    assert outcomes(history) == [True] * 4
    assert generation(history.path) != before


def tmp_path_repository(history: History, tmp_path: Path) -> Path:
    """Return a copy of the repository, in step with its old catalog."""
    copy = new_repository(tmp_path / "copy")
    shutil.rmtree(copy / "catalog")
    shutil.copytree(tmp_path / "old", copy / "catalog")
    return copy


def test_a_lost_pack_takes_its_objects_and_the_nodes_above_them(history: History) -> None:
    packs_of(history.path)[0].unlink()

    findings = open_and_settle(history.path)

    assert len(findings.packs_lost) == 1
    assert outcomes(history) == [False] * 3
    assert damaged(history.path) == [True] * 3


def test_points_that_need_nothing_of_a_lost_pack_stay(history: History) -> None:
    packs_of(history.path)[2].unlink()
    open_and_settle(history.path)

    assert outcomes(history) == [True, True, False]
    assert damaged(history.path) == [False, False, True]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_no_object_with_an_absent_child_is_found_by_its_digest(history: History, lost: int) -> None:
    packs_of(history.path)[lost].unlink()
    open_and_settle(history.path)
    with reading(history.path) as repository, repository.catalog.view() as view:
        known = {number for number, _ in view.all_locations()}

        assert all(child in known for _, below in view.all_children() for child in below if child)
        assert {node for node, _ in view.all_children()} <= known


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_restored_pack_repairs_its_points(history: History, lost: int, tmp_path: Path) -> None:
    pack = packs_of(history.path)[lost]
    shutil.move(pack, tmp_path / "kept")
    open_and_settle(history.path)
    shutil.move(tmp_path / "kept", pack)
    open_and_settle(history.path)

    assert outcomes(history) == [True] * 3
    assert damaged(history.path) == [False] * 3


def test_capturing_a_lost_chunk_again_repairs_its_points(history: History) -> None:
    packs_of(history.path)[0].unlink()
    open_and_settle(history.path)
    add_point(history.path, {"disk": history.points[0].image})
    add_point(history.path, {"disk": history.points[1].image})
    open_and_settle(history.path)

    assert outcomes(history) == [True, True, True]


def test_objects_of_a_lost_pack_move_to_equal_frames(history: History, tmp_path: Path) -> None:
    other = new_repository(tmp_path / "other")
    add_point(other, {"disk": history.points[0].image})
    (copy,) = packs_of(other)
    target = history.path / "packs" / copy.name[:2]
    target.mkdir(exist_ok=True)
    shutil.copy(copy, target / copy.name)
    before = numbers(history.path)
    packs_of(history.path)[0].unlink()

    findings = open_and_settle(history.path)

    assert findings.objects_moved > 0
    assert findings.objects_dropped == 0
    assert numbers(history.path) == before
    assert outcomes(history) == [True] * 3


def test_objects_move_to_a_pack_that_was_not_known(history: History, tmp_path: Path) -> None:
    other = new_repository(tmp_path / "other")
    add_point(other, {"disk": history.points[0].image})
    (copy,) = packs_of(other)
    packs_of(history.path)[0].unlink()
    (history.path / "packs" / copy.name[:2]).mkdir(exist_ok=True)
    shutil.copy(copy, history.path / "packs" / copy.name[:2] / copy.name)

    findings = open_and_settle(history.path)

    assert findings.objects_dropped == 0
    assert outcomes(history) == [True] * 3


def test_ids_are_never_reused(history: History) -> None:
    before = numbers(history.path)
    packs_of(history.path)[2].unlink()
    open_and_settle(history.path)
    add_point(history.path, {"disk": image({5: b"new"})})
    after = numbers(history.path)

    assert all(before.get(number, digest) == digest for number, digest in after.items())
    assert min(after.keys() - before.keys()) > max(before)


def test_an_unknown_pack_is_added_once(history: History) -> None:
    chunk = b"new".ljust(BLOCK, b"\0")
    write_pack(history.path, [(Kind.CHUNK, 0, chunk), (Kind.CHUNK, 0, chunk)])

    assert open_and_settle(history.path).objects_added == 1
    assert open_and_settle(history.path).is_empty


def test_nodes_are_found_whatever_the_order_of_their_packs(history: History) -> None:
    chunk = b"new".ljust(BLOCK, b"\0")
    leaf = node_over(chunk_digest(chunk))
    above = node_over(digest_of(Kind.NODE, 1, leaf))
    write_pack(history.path, [(Kind.NODE, 2, above)])
    write_pack(history.path, [(Kind.NODE, 1, leaf)])
    write_pack(history.path, [(Kind.CHUNK, 0, chunk)])

    assert open_and_settle(history.path).nodes_left_out == 0
    with reading(history.path) as repository, repository.catalog.view() as view:
        assert view.find(Kind.NODE, 2, digest_of(Kind.NODE, 2, above)) is not None


def test_a_node_with_an_absent_child_is_left_out(
    history: History,
) -> None:
    leaf = node_over(Digest(b"x" * 32))
    write_pack(history.path, [(Kind.NODE, 1, leaf)])

    assert open_and_settle(history.path).nodes_left_out == 1
    with reading(history.path) as repository, repository.catalog.view() as view:
        assert view.find(Kind.NODE, 1, digest_of(Kind.NODE, 1, leaf)) is None


def test_a_node_that_was_left_out_is_found_once_its_child_is_there(history: History) -> None:
    chunk = b"new".ljust(BLOCK, b"\0")
    leaf = node_over(chunk_digest(chunk))
    write_pack(history.path, [(Kind.NODE, 1, leaf)])
    open_and_settle(history.path)
    write_pack(history.path, [(Kind.CHUNK, 0, chunk)])
    open_and_settle(history.path)

    with reading(history.path) as repository, repository.catalog.view() as view:
        assert view.find(Kind.NODE, 1, digest_of(Kind.NODE, 1, leaf)) is not None


@pytest.mark.parametrize("content", [b"", b"short", node_over()[1:], node_over() + b"x" * 32])
def test_a_node_of_another_length_is_left_out(history: History, content: bytes) -> None:
    write_pack(history.path, [(Kind.NODE, 1, content)])

    assert open_and_settle(history.path).nodes_left_out == 1
    assert outcomes(history) == [True] * 3


def test_a_damaged_trailer_costs_no_point(history: History) -> None:
    pack = packs_of(history.path)[0]
    pack.write_bytes(pack.read_bytes()[:-1])
    shutil.rmtree(history.path / "catalog")

    findings = open_and_settle(history.path)

    assert len(findings.packs_scanned) == 1
    assert outcomes(history) == [True] * 3


def test_a_manifest_that_was_not_known_is_applied(history: History) -> None:
    with pytest.raises(Crash), crashing(CATCH_UP[6], after=False):
        add_point(history.path, {"disk": history.points[0].image})

    findings = open_and_settle(history.path)

    assert findings.points_added == 1
    assert len(damaged(history.path)) == 4


def test_a_point_that_was_forgotten_is_dropped(history: History) -> None:
    forget(history.path, history.points[1].manifest.point)

    findings = open_and_settle(history.path)

    assert findings.points_dropped == 1
    assert findings.missing == frozenset()
    with reading(history.path) as repository, repository.catalog.view() as view:
        ids = [point.manifest.point for point in listing.points(view)]
    assert ids == [history.points[0].manifest.point, history.points[2].manifest.point]


def test_a_point_with_neither_manifest_stays_known_and_is_missing(history: History) -> None:
    gone = history.points[1].manifest
    (history.path / "points" / gone.point).unlink()

    findings = open_and_settle(history.path)

    assert findings.points_dropped == 0
    assert findings.missing == {gone.point}
    with reading(history.path) as repository, repository.catalog.view() as view:
        marks = {point.manifest.point: point.marks for point in listing.points(view)}
        record = view.point(gone.point)
    assert marks == {
        point.manifest.point: (["missing"] if point.manifest == gone else [])
        for point in history.points
    }
    assert record is not None
    assert decode_manifest(record.manifest) == gone


def test_a_missing_point_is_settled_once(history: History) -> None:
    (history.path / "points" / history.points[1].manifest.point).unlink()
    open_and_settle(history.path)

    findings = open_and_settle(history.path)

    assert findings.is_empty
    assert findings.missing == {history.points[1].manifest.point}


def test_a_vm_is_removed_with_its_last_point(history: History) -> None:
    for point in history.points:
        forget(history.path, point.manifest.point)
    open_and_settle(history.path)

    with reading(history.path) as repository, repository.catalog.view() as view:
        assert view.vms() == {}


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 500])
def test_a_known_manifest_that_cannot_be_read_drops_nothing(
    history: History, content: bytes
) -> None:
    (history.path / "points" / history.points[1].manifest.point).write_bytes(content)
    open_and_settle(history.path)

    assert outcomes(history) == [True] * 3
    assert damaged(history.path) == [False] * 3


def test_an_unknown_manifest_that_cannot_be_read_is_reported(history: History) -> None:
    point = history.points[1].manifest.point
    (history.path / "points" / point).write_bytes(b"{}")
    shutil.rmtree(history.path / "catalog")

    findings = open_and_settle(history.path)

    assert findings.points_added == 2
    assert [point in problem for problem in findings.unreadable] == [True]


def test_a_manifest_under_another_name_is_refused(history: History) -> None:
    points = history.path / "points"
    shutil.copy(points / history.points[0].manifest.point, points / ("0" * 32))

    findings = open_and_settle(history.path)

    assert findings.points_added == 0
    assert len(findings.unreadable) == 1


def test_a_manifest_with_an_unknown_root_makes_a_damaged_point(history: History) -> None:
    shutil.rmtree(history.path / "catalog")
    packs_of(history.path)[2].unlink()
    open_and_settle(history.path)

    assert damaged(history.path) == [False, False, True]
    with reading(history.path) as repository, pytest.raises(ChunkMissing, match="block map"):
        read_image(repository, history.points[2].manifest.disks[0])


def test_a_changed_state_is_seen(history: History) -> None:
    (history.path / "points" / (history.points[0].manifest.point + ".state")).unlink()

    findings = open_and_settle(history.path)

    assert findings.states_changed == 1
    with reading(history.path) as repository, repository.catalog.view() as view:
        assert [point.marks for point in listing.points(view)] == [["suspect", "protected"], [], []]


@pytest.mark.parametrize("step", CATCH_UP, ids=lambda step: step.name)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupted_catch_up_is_done_again(
    history: History, step: Step, after: bool, tmp_path: Path
) -> None:
    lost = packs_of(history.path)[1]
    write_pack(history.path, [(Kind.CHUNK, 0, RAW[BLOCK : 2 * BLOCK])])
    lost.unlink()
    (history.path / "points" / history.points[2].manifest.point).touch()
    (history.path / "points" / (history.points[2].manifest.point + ".state")).unlink()
    with crashing(step, after=after):
        try:
            open_and_settle(history.path)
        except Crash:
            pass
        else:
            pytest.fail("the catch-up never came to this step")

    open_and_settle(history.path)

    shutil.copytree(history.path, tmp_path / "rebuilt")
    shutil.rmtree(tmp_path / "rebuilt" / "catalog")
    open_and_settle(tmp_path / "rebuilt")
    assert set(numbers(history.path).values()) == set(numbers(tmp_path / "rebuilt").values())
    assert outcomes(history) == outcomes(History(tmp_path / "rebuilt", history.points))


def test_leftovers_of_a_stale_writer_are_removed(history: History) -> None:
    leftovers = [
        history.path / "packs" / packs_of(history.path)[0].name[:2] / ("0" * 32 + ".open"),
        history.path / "points" / ("0" * 32 + ".tmp"),
        history.path / "points" / ("0" * 32 + ".state.tmp"),
    ]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    open_and_settle(history.path)

    assert [leftover.exists() for leftover in leftovers] == [False] * 3


def test_files_of_others_stay(history: History) -> None:
    others = [
        history.path / "quarantine",
        history.path / "packs" / "README",
        history.path / "points" / "notes.txt",
        history.path / "points" / ("0" * 32 + ".forgotten"),
    ]
    for other in others:
        other.write_bytes(b"mine")
    open_and_settle(history.path)

    assert all(other.read_bytes() == b"mine" for other in others)


def test_a_null_root_needs_no_object(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repo")
    manifest = add_point(path, {"disk": bytes(5000)})
    shutil.rmtree(path / "catalog")

    assert manifest.disks[0].root == NULL_DIGEST
    assert outcomes(History(path, [Point(manifest, bytes(5000))])) == [True]
    assert damaged(path) == [False]


def test_references_differ_by_digest_only() -> None:
    digest = Digest(b"d" * 32)

    assert Ref(ObjectId(1), digest) == Ref(ObjectId(2), digest)


def test_a_point_that_its_order_has_lost_is_listed_again(history: History) -> None:
    # The newest entry of "order": without it an older point would pass for the newest.
    lost = lmdb.open(str(history.path / "catalog"), max_dbs=8, lib_version=0)
    with lost, lost.begin(write=True) as transaction:
        cursor = transaction.cursor(lost.open_db(b"order", txn=transaction))
        assert cursor.last()
        cursor.delete()

    open_and_settle(history.path)

    assert listed(history.path) == [point.manifest.point for point in history.points]
    assert outcomes(history) == [True] * 3


def test_a_catalog_is_readable_if_there_is_no_space_for_a_catch_up(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(history.path / "catalog", tmp_path / "old")
    image = history.points[-1].image
    newest = add_point(history.path, {"disk": image + b"more"}, changed={"disk": []})
    shutil.rmtree(history.path / "catalog")
    shutil.copytree(tmp_path / "old", history.path / "catalog")

    def no_room(*_: object) -> None:
        raise StoreFailed("No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(Environment, "write", no_room)
        assert outcomes(history) == [True] * 3

    assert newest.point in listed(history.path)


def listed(path: Path) -> list[PointId]:
    with reading(path) as repository, repository.catalog.view() as view:
        return [point.manifest.point for point in listing.points(view)]


@pytest.mark.parametrize("is_writable", [False, True])
def test_a_catalog_of_another_version_is_rebuilt(
    history: History, is_writable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The values of another schema would be misread."""
    with lmdb.open(str(history.path / "catalog"), max_dbs=8, lib_version=ENGINE) as environment:
        database = environment.open_db(META)
        with environment.begin(write=True) as transaction:
            value = close_value(META, SCHEMA, number_key(SCHEMA_VERSION - 1))
            transaction.put(SCHEMA, value, db=database)

    open_it = writing if is_writable else reading
    with open_it(history.path) as repository, repository.catalog.view() as view:
        assert view.meta(SCHEMA) == number_key(SCHEMA_VERSION)
    assert f"another version of cbtfs (schema {SCHEMA_VERSION - 1})" in caplog.text
    assert outcomes(history) == [True, True, True]
    assert open_and_settle(history.path).is_empty
