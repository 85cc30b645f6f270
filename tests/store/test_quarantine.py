"""Deduplication ignores quarantined frames, and the next ingest of the data rewrites them."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.cli.main import main
from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import FRAME_HEADER_BYTES, Frame, Kind
from cbtfs.core.ids import PackId, PointId
from cbtfs.core.sealed import seal
from cbtfs.errors import DataCorrupt
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.listing import find_point
from cbtfs.prune.prune import prune
from cbtfs.reader import Reader
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ListedSource, load_change_list
from cbtfs.store.digest import chunk_digest
from cbtfs.store.quarantine import corrupt_frame, load_quarantine
from cbtfs.store.repository import reading, rebuild_catalog, writing
from tests.ingest.fake_disks import copy_catalog, put_back_catalog
from tests.make_points import EPOCH, commit_point, new_repository
from tests.scenarios.repository_history import EVERYTHING, block, image
from tests.store.folders import pack_at

CONTENT = image(*range(1, FANOUT + 20))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo")


def ingest(path: Path, content: bytes, *, is_listed: bool = False) -> PointId:
    """Add a point of *content*; with *is_listed*, from an empty change list."""
    file = path.parent / "disk.raw"
    file.write_bytes(content)
    changes = path.parent / "changes.json"
    changes.write_text("[]")
    source = ImageSource(file)
    try:
        with writing(path) as repository:
            objects = repository.object_writer()
            given = ListedSource(source, load_change_list(changes), None) if is_listed else source
            try:
                return ingest_point(
                    repository,
                    objects,
                    VmInput("vm"),
                    [DiskInput("disk", given, "disk")],
                    PointOptions(EPOCH),
                ).point
            finally:
                objects.close()
    finally:
        source.close()


def spoil(path: Path, content: bytes) -> tuple[PackId, Frame]:
    """Damage the chunk of *content* and quarantine its frame."""
    with writing(path) as repository:
        with repository.catalog.view() as view:
            number = view.find(Kind.CHUNK, 0, chunk_digest(content))
            assert number is not None
            location = view.location(number)
            assert location is not None
            record = view.pack(location.pack)
            assert record is not None
        file = repository.packs.path(record.id)
        data = bytearray(file.read_bytes())
        data[location.frame.offset + FRAME_HEADER_BYTES + location.frame.table_bytes + 7] ^= 4
        file.write_bytes(data)
        repository.add_to_quarantine([corrupt_frame(record.id, location.frame)])
    return record.id, location.frame


def read(path: Path, point: PointId) -> bytes:
    with reading(path) as repository:
        record = find_point(repository, point).manifest.disks[0]
        return bytes(Reader(repository).disk(record).read(0, record.size))


@pytest.mark.parametrize("is_listed", [True, False])
def test_the_next_ingest_makes_every_point_whole_again(path: Path, is_listed: bool) -> None:
    first = ingest(path, CONTENT)
    spoil(path, block(5))
    with pytest.raises(DataCorrupt):
        read(path, first)

    second = ingest(path, CONTENT, is_listed=is_listed)

    assert read(path, first) == CONTENT
    assert read(path, second) == CONTENT


def test_a_corrupt_chunk_of_another_disk_is_not_deduplicated(path: Path) -> None:
    ingest(path, CONTENT)
    spoil(path, block(5))

    other = ingest(path, image(7, 5))

    assert read(path, other) == image(7, 5)


def test_repaired_chunks_stay_repaired_after_a_rebuild(path: Path) -> None:
    first = ingest(path, CONTENT)
    spoil(path, block(5))
    ingest(path, CONTENT)

    for _ in range(4):  # Packs come in the order of their random ids.
        shutil.rmtree(path / "catalog")
        assert read(path, first) == CONTENT


def test_repaired_blocks_are_not_read_again(path: Path) -> None:
    ingest(path, CONTENT)
    spoil(path, block(5))
    ingest(path, CONTENT, is_listed=True)

    with writing(path) as repository:
        assert not repository.quarantined()
        assert load_quarantine(path)


@pytest.fixture(params=["bad first", "intact first"])
def ordered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give packs ascending or descending ids: a catalog reads packs in order of their ids."""
    numbers = range(1, 9) if request.param == "bad first" else range(9, 0, -1)
    ids = iter(f"{number:032x}" for number in numbers)
    monkeypatch.setattr("cbtfs.store.writer.new_pack_id", lambda _: PackId(next(ids)))


@pytest.mark.usefixtures("ordered")
def test_a_rebuild_finds_the_intact_frame_whatever_the_order_of_packs(path: Path) -> None:
    first = ingest(path, CONTENT)
    spoil(path, block(5))
    second = ingest(path, CONTENT)

    rebuild_catalog(path)

    with writing(path) as repository:
        assert not repository.quarantined()
    assert read(path, first) == read(path, second) == CONTENT


@pytest.mark.usefixtures("ordered")
@pytest.mark.parametrize("knows_bad", [True, False])
def test_a_catalog_that_lags_finds_the_intact_frame(path: Path, knows_bad: bool) -> None:
    copy = path.parent / "catalog"
    copy_catalog(path, copy)
    first = ingest(path, CONTENT)
    if knows_bad:
        copy_catalog(path, copy)
    spoil(path, block(5))
    second = ingest(path, CONTENT)
    put_back_catalog(path, copy)

    with writing(path) as repository:
        assert not repository.findings.is_empty
        assert not repository.quarantined()
    assert read(path, first) == read(path, second) == CONTENT


def test_a_rebuild_keeps_a_corrupt_frame_without_an_equal_one(path: Path) -> None:
    ingest(path, CONTENT)
    pack, frame = spoil(path, block(5))

    rebuild_catalog(path)

    with writing(path) as repository:
        assert repository.quarantined() == {frame.digest: corrupt_frame(pack, frame)}


def test_new_entries_are_added_to_those_of_before(path: Path) -> None:
    ingest(path, CONTENT)
    spoiled = {corrupt_frame(*spoil(path, block(number))) for number in (5, 9, 30)}

    assert load_quarantine(path) == spoiled
    with writing(path) as repository:
        assert set(repository.quarantined().values()) == spoiled
        repository.add_to_quarantine([])
    assert load_quarantine(path) == spoiled


def test_a_prune_drops_a_quarantined_frame_with_its_pack(path: Path) -> None:
    ingest(path, CONTENT)
    pack, _ = spoil(path, block(5))
    ingest(path, CONTENT)
    with writing(path) as repository:
        assert prune(repository, EVERYTHING).damaged == ()
        repository.add_to_quarantine([])

        assert pack not in repository.packs.ids()
        assert not load_quarantine(path)


def test_a_damaged_quarantine_is_reported_and_ignored(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    point = ingest(path, CONTENT)
    (path / "quarantine").write_bytes(b"no")

    with caplog.at_level(logging.WARNING):
        ingest(path, CONTENT)

    assert "quarantine is damaged" in caplog.text
    assert read(path, point) == CONTENT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=9,
)
PLACES = st.lists(
    st.dictionaries(st.sampled_from(["pack", "offset", "kind", "level", "digest"]), JSON) | JSON
)


@given(st.binary(max_size=99) | st.builds(lambda v: seal({"places": v}), PLACES | JSON))
def test_any_quarantine_file_decodes_to_frames_or_is_ignored(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("quarantine")
    (folder / "quarantine").write_bytes(data)

    assert isinstance(load_quarantine(folder), frozenset)


def spoil_nodes(path: Path, level: int) -> int:
    """Damage every frame of nodes of a level; return their number."""
    count = 0
    for file in (path / "packs").glob("*/*"):
        data = bytearray(file.read_bytes())
        for frame in pack_at(file).trailer():
            if (frame.kind, frame.level) == (Kind.NODE, level):
                data[frame.payload_offset + 3] ^= 1
                count += 1
        file.write_bytes(data)
    return count


def run(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main([f"--repo={path}", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("is_checked", [True, False])
def test_a_repair_rewrites_corrupt_nodes(
    path: Path, capsys: pytest.CaptureFixture[str], level: int, is_checked: bool
) -> None:
    point = ingest(path, CONTENT)
    count = spoil_nodes(path, level)
    if is_checked:
        code, document = run(path, capsys, "check")
        assert code == 21
        assert [problem["kind"] for problem in document["problems"]] == ["node"] * count
        assert {item["point"] for p in document["problems"] for item in p["points"]} == {point}

    code, done = run(path, capsys, "repair")

    assert (code, done["nodes_mended"], done["nodes_left_out"]) == (0, count, 0)
    _expect_whole_from_packs_alone(path, capsys, point)


def test_any_ingest_rewrites_corrupt_nodes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = ingest(path, CONTENT)
    spoil_nodes(path, 1)
    spoil_nodes(path, 2)
    assert run(path, capsys, "check")[1]["quarantined"] == 3

    ingest(path, image(900), is_listed=False)

    with writing(path) as repository:
        assert not repository.quarantined()
    _expect_whole_from_packs_alone(path, capsys, point)


def test_an_ingest_rewrites_a_corrupt_node_that_no_catalog_knows(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point = ingest(path, CONTENT)
    spoil_nodes(path, 1)
    shutil.rmtree(path / "catalog")
    assert run(path, capsys, "repair")[0] == 20

    ingest(path, CONTENT)

    _expect_whole_from_packs_alone(path, capsys, point)


def _expect_whole_from_packs_alone(
    path: Path, capsys: pytest.CaptureFixture[str], point: PointId
) -> None:
    for _ in range(3):  # Packs come in the order of their random ids.
        shutil.rmtree(path / "catalog")
        assert read(path, point) == CONTENT
    code, document = run(path, capsys, "check", "--read-data")
    assert (code, document["verified"][point] is not None) == (0, True)
    assert all(not problem["points"] for problem in document["problems"])


def test_repair_rewrites_a_lost_pack_of_nodes(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with writing(path) as repository:
        manifest = commit_point(repository, {"disk": CONTENT}, pack_bytes=1)
    (root,) = (
        file for file in (path / "packs").glob("*/*") if pack_at(file).trailer()[0].level == 2
    )
    root.unlink()

    assert run(path, capsys, "repair")[1]["nodes_mended"] == 1

    _expect_whole_from_packs_alone(path, capsys, manifest.point)
