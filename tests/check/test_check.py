"""Check accepts intact data, detects any flipped bit, and lists the affected points."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.check.check import check
from cbtfs.check.report import AffectedDisk, CheckReport, Problem
from cbtfs.core.extent import Extent
from cbtfs.core.frame import Codec, Frame, Kind
from cbtfs.core.ids import ObjectId, PackId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt
from cbtfs.store.catalog.gate import DATA
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog_opening import CATALOG
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import reading, writing
from tests.cli.run_cbtfs import process
from tests.make_points import BLOCK, add_point, new_repository, read_point
from tests.store.folders import packs_at

RANDOM = random.Random(7)
NOISE = [RANDOM.randbytes(BLOCK) for _ in range(6)]
TEXT = [b"%d bottles of beer " % n * 400 for n in range(6)]
"""Noise is stored raw, text is compressed."""


def block(n: int) -> bytes:
    return (NOISE if n % 2 else TEXT)[n // 2][:BLOCK]


def image(*blocks: int | None) -> bytes:
    return b"".join(bytes(BLOCK) if n is None else block(n) for n in blocks)


def frames(path: Path) -> Iterator[tuple[Path, Frame]]:
    """Yield every frame of a repository with the path of its pack."""
    packs = packs_at(path / "packs")
    for pack in sorted(packs.ids()):
        for frame in packs.frames(PackId(pack))[0]:
            yield packs.path(pack), frame


def frame_of(path: Path, content: bytes) -> tuple[Path, Frame]:
    """Return the pack and the frame of the chunk with this content."""
    digest = chunk_digest(content)
    return next((file, frame) for file, frame in frames(path) if frame.digest == digest)


@contextmanager
def flipped(file: Path, at: int, bit: int = 0) -> Iterator[None]:
    """Flip one bit of *file* until the end of the block."""
    with file.open("r+b", buffering=0) as opened:
        (byte,) = os.pread(opened.fileno(), 1, at)
        os.pwrite(opened.fileno(), bytes([byte ^ 1 << bit]), at)
        try:
            yield
        finally:
            os.pwrite(opened.fileno(), bytes([byte]), at)


def only(report: CheckReport) -> Problem:
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Manifest]]:
    """Return two VMs with three points, several packs and chunks that disks share."""
    path = new_repository(tmp_path_factory.mktemp("check") / "repository")
    first = add_point(path, {"d": image(1, 2, None, 3)}, pack_bytes=3 * BLOCK)
    second = add_point(path, {"d": image(1, 4, None, 3, 5)}, changed={"d": [1, 4]})
    third = add_point(path, {"e": image(*[None] * 70, 3, 3), "f": image(6)}, vm="other")
    return path, [first, second, third]


def test_a_sound_repository_has_no_problems(shared: tuple[Path, list[Manifest]]) -> None:
    path, _ = shared

    quick, whole = check(path, read_data=False), check(path, read_data=True)

    assert quick.problems == whole.problems == []
    assert (quick.points, whole.points) == (3, 3)
    assert whole.objects == sum(1 for _ in frames(path))
    assert quick.chunks_read == 0
    assert whole.chunks_read == 6
    assert whole.bytes_read == sum(frame.end - frame.offset for _, frame in frames(path))
    whole.raise_worst()


def test_an_empty_repository_is_sound(tmp_path: Path) -> None:
    report = check(new_repository(tmp_path / "repository"), read_data=True)

    assert report == CheckReport()


def test_a_corrupt_chunk_is_reported_with_every_affected_extent(
    shared: tuple[Path, list[Manifest]],
) -> None:
    path, (first, second, third) = shared
    pack, frame = frame_of(path, block(3))

    with flipped(pack, frame.payload_offset):
        problem = only(check(path, read_data=True))
        quick = check(path, read_data=False)

    assert (problem.kind, problem.error) == ("chunk", DataCorrupt)
    assert frame.digest.hex() in problem.what
    assert sorted(problem.places, key=str) == sorted(
        [
            AffectedDisk(first.point, "vm", "d", (Extent(3 * BLOCK, BLOCK),)),
            AffectedDisk(second.point, "vm", "d", (Extent(3 * BLOCK, BLOCK),)),
            AffectedDisk(third.point, "other", "e", (Extent(70 * BLOCK, 2 * BLOCK),)),
        ],
        key=str,
    )
    assert quick.problems == []


def test_a_corrupt_node_is_detected_without_reading_data(
    shared: tuple[Path, list[Manifest]],
) -> None:
    path, (first, *_) = shared
    root = first.disks[0].root
    pack, frame = next((file, frame) for file, frame in frames(path) if frame.digest == root)

    with flipped(pack, frame.payload_offset + 3):
        problem = only(check(path, read_data=False))

    assert problem.kind == "node"
    assert problem.places == [AffectedDisk(first.point, "vm", "d", (Extent(0, 4 * BLOCK),))]


def test_a_lost_pack_is_20_and_names_its_points(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    first = add_point(path, {"d": image(1, 2)})
    add_point(path, {"d": image(4)}, vm="other")
    pack, _ = frame_of(path, block(1))
    pack.unlink()

    report = check(path, read_data=True)

    problem = only(report)
    assert (problem.kind, problem.error) == ("pack", ChunkMissing)
    assert problem.places == [AffectedDisk(first.point, "vm", "d", (Extent(0, 2 * BLOCK),))]
    with pytest.raises(ChunkMissing):
        report.raise_worst()


def test_corrupt_is_graver_than_missing(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": image(1)})
    manifest = add_point(path, {"d": image(2)}, vm="other")
    pack, _ = frame_of(path, block(1))
    pack.unlink()
    state = path / "points" / f"{manifest.point}.state"
    state.write_bytes(state.read_bytes()[:-2])

    report = check(path, read_data=False)

    assert {problem.error for problem in report.problems} == {ChunkMissing, DataCorrupt}
    with pytest.raises(DataCorrupt):
        report.raise_worst()


def test_missing_files_of_a_point_are_named(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    manifest = add_point(path, {"d": image(1)})
    with reading(path):
        """The catalog is in step."""
    (path / "points" / f"{manifest.point}.state").unlink()

    problem = only(check(path, read_data=False))

    assert (problem.kind, problem.error) == ("state", ChunkMissing)
    assert manifest.point in problem.what


def test_a_damaged_manifest_is_named_with_its_disks(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    manifest = add_point(path, {"d": image(1), "e": image(2, 4)})

    with flipped(path / "points" / manifest.point, 40):
        problem = only(check(path, read_data=False))

    assert (problem.kind, problem.error) == ("manifest", DataCorrupt)
    assert problem.places == [
        AffectedDisk(manifest.point, "vm", "d", (Extent(0, BLOCK),)),
        AffectedDisk(manifest.point, "vm", "e", (Extent(0, 2 * BLOCK),)),
    ]


def test_leftovers_of_a_stale_writer_are_no_problem(tmp_path: Path) -> None:
    """A pack was closed but not added to the catalog: nothing refers to its objects."""
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": image(1)})
    catalog = path / CATALOG / DATA
    before = catalog.read_bytes()
    manifest = add_point(path, {"d": image(2)})
    catalog.write_bytes(before)
    (path / "points" / manifest.point).unlink()

    assert check(path, read_data=True).problems == []


@pytest.mark.parametrize("read_data", [False, True])
def test_a_pack_that_is_cut_or_longer_is_found(tmp_path: Path, read_data: bool) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": image(1, 2)})
    pack, _ = frame_of(path, block(1))
    whole = pack.read_bytes()

    for wrong in (whole[:-1], whole[: len(whole) // 2], whole + b"\0", b""):
        pack.write_bytes(wrong)
        with pytest.raises(CbtfsError):
            check(path, read_data=read_data).raise_worst()


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_found(shared: tuple[Path, list[Manifest]], data: st.DataObject) -> None:
    """Exception: a compressed payload that still decodes to the same bytes is not damaged."""
    path, manifests = shared
    files = [
        path / "repository.json",
        *sorted((path / "packs").glob("*/*")),
        *sorted(file for file in (path / "points").iterdir()),
    ]
    file = data.draw(st.sampled_from(files))
    at = data.draw(st.integers(0, file.stat().st_size - 1))
    is_compressed = any(
        pack == file and frame.codec is Codec.ZSTD and frame.payload_offset <= at < frame.end
        for pack, frame in frames(path)
    )

    with flipped(file, at, data.draw(st.integers(0, 7))):
        try:
            check(path, read_data=True).raise_worst()
            is_found = False
        except DataCorrupt:
            is_found = True
        if not is_found:
            assert is_compressed
            assert read_point(path, manifests[0])["d"] == image(1, 2, None, 3)
            assert read_point(path, manifests[1])["d"] == image(1, 4, None, 3, 5)


def test_a_damaged_catalog_is_a_finding_and_packs_are_checked_all_the_same(
    tmp_path: Path,
) -> None:
    """Flip bits all over data.mdb: each is detected or harmless."""
    path = new_repository(tmp_path / "repository")
    manifest = add_point(path, {"d": image(1, 2, None, 3)})
    file = path / CATALOG / DATA
    pack, frame = frame_of(path, block(3))
    sound = file.read_bytes()
    detected = 0
    with flipped(pack, frame.payload_offset):
        for at in range(0, len(sound), 1009):
            with flipped(file, at, at % 8):
                report = check(path, read_data=True)
            if file.read_bytes() != sound:  # The check repaired the catalog.
                file.write_bytes(sound)
            assert any(problem.kind == "chunk" for problem in report.problems), at
            detected += any(problem.kind in ("catalog", "map") for problem in report.problems)

    assert detected
    assert manifest.point in os.listdir(path / "points")


@pytest.mark.parametrize(
    "change",
    [
        {"digest": chunk_digest(block(2))},
        {"stored": 7},
        {"plain": BLOCK - 1},
        {"codec": Codec.ZSTD},
        {"level": 3},
        {"kind": Kind.NODE, "level": 1},
        {"offset": 1 << 12},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_location_that_differs_from_the_pack_in_one_fact_is_found(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = new_repository(tmp_path / "repository")
    manifest = add_point(path, {"d": image(1, 2, None, 3)})

    def move(number: ObjectId, place: Location) -> Location:
        return place._replace(frame=place.frame._replace(**change))

    _move_chunk(path, block(1), move)
    problems = check(path, read_data=False).problems

    assert problems[0].kind == "catalog"
    assert "differ from those in the catalog" in problems[0].what
    (place,) = [place for problem in problems for place in problem.places]
    assert place.point == manifest.point
    assert place.extents[0].start == 0


def test_a_chunk_that_the_catalog_places_where_another_is_is_found(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    manifest = add_point(path, {"d": image(1, 2, None, 3)})
    _, other = frame_of(path, block(2))

    _move_chunk(path, block(1), lambda _, place: place._replace(frame=other))
    report = check(path, read_data=False)

    assert [place.point for problem in report.problems for place in problem.places] == [
        manifest.point
    ]
    with pytest.raises(DataCorrupt):
        report.raise_worst()


def _move_chunk(path: Path, content: bytes, move: Callable[[ObjectId, Location], Location]) -> None:
    """Change the location of a chunk in the catalog."""
    with writing(path) as repository:
        with repository.catalog.view() as view:
            number = view.find(Kind.CHUNK, 0, chunk_digest(content))
            assert number is not None
            place = view.location(number)
        assert place is not None
        moved = move(number, place)
        repository.catalog.update(lambda update: update.move_object(number, moved))


def test_the_command_prints_the_contract(shared: tuple[Path, list[Manifest]]) -> None:
    path, (_, second, _) = shared
    pack, frame = frame_of(path, block(5))

    sound = process("--repo", path, "check", "--json")
    with flipped(pack, frame.payload_offset):
        damaged = process("--repo", path, "check", "--read-data", "--json")
        words = process("--repo", path, "check", "--read-data")

    document = sound.document
    assert (sound.code, sound.err) == (0, "")
    assert document.pop("seconds") >= 0
    assert document.pop("bytes_read") > 0
    assert set(document.pop("verified")) == {point.point for point in shared[1]}
    assert document == {
        "quarantined": 0,
        "unrecorded": None,
        "unverified_packs": 0,
        "points": 3,
        "objects": sum(1 for _ in frames(path)),
        "chunks_read": 0,
        "problems": [],
    }
    assert damaged.code == 21
    assert damaged.err.startswith("cbtfs: 1 ")
    (problem,) = damaged.document["problems"]
    assert problem.pop("what").startswith(f"chunk {frame.digest.hex()} in pack {pack.name}")
    assert problem == {
        "kind": "chunk",
        "exit": 21,
        "points": [
            {
                "point": second.point,
                "vm": "vm",
                "name": second.name,
                "disk": "d",
                "extents": [{"start": 4 * BLOCK, "length": BLOCK}],
            }
        ],
    }
    assert words.code == 21
    assert f"{4 * BLOCK} {BLOCK}" in words.out
    assert f"  vm@{second.name}, disk d (point {second.point}):" in words.out


def test_words_name_points_by_vm_and_time_in_order(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    points = [add_point(path, {"d": image(1)}, vm=vm) for vm in ("b", "a", "b", "c", "a")]
    pack, frame = frame_of(path, block(1))

    with flipped(pack, frame.payload_offset):
        damaged = process("--repo", path, "check", "--read-data")
        document = process("--repo", path, "check", "--json").document

    order = sorted(points, key=lambda point: (point.vm.name, point.order))
    assert [line for line in damaged.out.splitlines() if line.startswith("  ") and "@" in line] == [
        f"  {point.vm.name}@{point.name}, disk d (point {point.point}):" for point in order
    ]
    assert list(document["verified"]) == [point.point for point in order]


def test_points_that_were_never_verified_are_counted_not_listed(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    for number in range(3):
        add_point(path, {"d": image(number + 1)})
    quick = process("--repo", path, "check")
    verified = process("--repo", path, "check", "--read-data")
    add_point(path, {"d": image(9)})
    later = process("--repo", path, "check")

    words = "of {} points were never verified in full"
    assert [line for line in quick.out.splitlines() if "never" in line] == [
        f"3 {words.format(3)}: run 'cbtfs check --read-data'"
    ]
    assert "never" not in verified.out
    assert f"1 {words.format(4)}" in later.out


def test_only_the_oldest_verification_is_printed_with_its_age(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    points = [add_point(path, {"d": image(1)}) for _ in range(3)]
    with writing(path) as repository:
        for point, day in zip(points, (3, 1, 2), strict=True):
            state = repository.points.load_state(point.point)[0]
            repository.put_states([replace(state, verified=f"2026-01-0{day}T00:00:00Z")])

    words = process("--repo", path, "check").out

    assert [line.partition(", ")[0] for line in words.splitlines() if "ago" in line] == [
        f"oldest full verification: vm@{points[1].name}"
    ]


def test_a_repository_of_another_writer_can_be_checked(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": image(1)})

    with writing(path):
        done = process("--repo", path, "check", "--read-data")

    assert done.code == 0
