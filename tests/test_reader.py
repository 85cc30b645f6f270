"""Reads match byte strings at any offset and length, and return verified bytes only."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.extent import Extent, complement
from cbtfs.core.frame import Codec, Frame
from cbtfs.core.ids import Digest, PackId
from cbtfs.core.manifest import DiskRecord
from cbtfs.difference import differing
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt
from cbtfs.reader import Disk, Reader
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog.view import View
from cbtfs.store.repository import Repository, reading
from tests.make_points import BLOCK, MEMORY, add_point, new_repository
from tests.store.folders import packs_at

LARGE = 16 * BLOCK
"""A block size of several pieces."""


def patchwork(seed: int, size: int, unit: int) -> bytes:
    """Return a random sequence of units of zeros, text and noise."""
    rng = random.Random(seed)
    kinds = [bytes(unit), b"0123456789abcde\n" * (unit // 16), rng.randbytes(unit)]
    return b"".join(rng.choice(kinds) for _ in range(-(-size // unit)))[:size]


IMAGES = {
    "odd": patchwork(1, 130 * BLOCK + 77, BLOCK),
    "even": patchwork(2, 64 * BLOCK, BLOCK),
    "tiny": b"x",
    "zero": bytes(3 * BLOCK),
    "none": b"",
    "sparse": bytes(4200 * BLOCK) + b"end",
}
CHANGED = bytearray(IMAGES["odd"])
CHANGED[5 * BLOCK : 7 * BLOCK] = b"new." * (2 * BLOCK // 4)
CHANGED[100 * BLOCK : 101 * BLOCK] = bytes(BLOCK)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield new_repository(folder / "repo")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def records(path: Path) -> dict[str, DiskRecord]:
    first = add_point(path, IMAGES)
    later = add_point(path, {"odd": bytes(CHANGED)}, changed={"odd": [5, 6, 100]})
    grown = add_point(path, {"odd": bytes(CHANGED) + b"more" * BLOCK}, changed={"odd": []})
    records = {disk.label: disk for disk in first.disks}
    return records | {"changed": later.disks[0], "grown": grown.disks[0]}


@pytest.fixture(scope="module")
def opened(path: Path, records: dict[str, DiskRecord]) -> Iterator[Repository]:
    with reading(path) as repository:
        yield repository


@pytest.fixture(scope="module")
def disks(opened: Repository, records: dict[str, DiskRecord]) -> dict[str, Disk]:
    reader = Reader(opened)
    return {label: reader.disk(record) for label, record in records.items()}


@pytest.mark.parametrize("label", IMAGES)
def test_a_whole_disk_reads_as_it_was(disks: dict[str, Disk], label: str) -> None:
    assert bytes(disks[label].read(0, len(IMAGES[label]))) == IMAGES[label]


@settings(max_examples=80)
@given(
    label=st.sampled_from(sorted(IMAGES)),
    share=st.floats(0, 1.1),
    length=st.sampled_from([0, 1, 511, 512, BLOCK, BLOCK + 1, 9 * BLOCK]) | st.integers(0, 60000),
    nudge=st.integers(-2, 2),
)
def test_any_range_reads_as_it_was(
    disks: dict[str, Disk], label: str, share: float, length: int, nudge: int
) -> None:
    image = IMAGES[label]
    offset = max(int(len(image) * share) // 512 * 512 + nudge, 0)

    assert bytes(disks[label].read(offset, length)) == image[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (5, -1)])
def test_a_negative_offset_or_length_is_refused(
    disks: dict[str, Disk], offset: int, length: int
) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        disks["odd"].read(offset, length)


def test_reads_from_several_threads_are_correct(
    opened: Repository, records: dict[str, DiskRecord]
) -> None:
    image = IMAGES["odd"]
    rng = random.Random(4)
    ranges = [(rng.randrange(len(image)), rng.randrange(30000)) for _ in range(300)]
    with ThreadPoolExecutor(6) as threads:
        disk = Reader(opened, cache_bytes=10 * BLOCK).disk(records["odd"])
        results = list(threads.map(lambda range_: bytes(disk.read(*range_)), ranges))

    assert results == [image[offset : offset + length] for offset, length in ranges]


def blocks_that(image: bytes, *, hold_data: bool) -> set[int]:
    blocks = range(0, len(image), BLOCK)
    return {at // BLOCK for at in blocks if any(image[at : at + BLOCK]) == hold_data}


def covered(extents: list[Extent]) -> set[int]:
    return {at // BLOCK for extent in extents for at in range(extent.start, extent.end, BLOCK)}


@pytest.mark.parametrize("label", IMAGES)
def test_data_extents_are_the_blocks_that_hold_data(disks: dict[str, Disk], label: str) -> None:
    extents = list(disks[label].data())
    size = len(IMAGES[label])

    assert covered(extents) == blocks_that(IMAGES[label], hold_data=True)
    assert covered(list(complement(extents, size))) == blocks_that(IMAGES[label], hold_data=False)


def test_a_diff_names_the_blocks_that_differ(disks: dict[str, Disk]) -> None:
    left, right = IMAGES["odd"], bytes(CHANGED)
    blocks = range(0, len(left), BLOCK)
    expected = {at // BLOCK for at in blocks if left[at : at + BLOCK] != right[at : at + BLOCK]}

    assert covered(list(differing(disks["odd"], disks["changed"]))) == expected


def test_a_diff_includes_the_end_of_the_longer_disk(disks: dict[str, Disk]) -> None:
    old, new = disks["changed"], disks["grown"]

    extents = list(differing(old, new))

    assert extents == list(differing(new, old))
    assert extents[-1].end == new.size
    assert extents[0].start <= old.size


def test_disks_with_different_block_sizes_are_not_compared(disks: dict[str, Disk]) -> None:
    record = replace(disks["odd"].record, block_size=2 * BLOCK)

    with pytest.raises(ValueError, match="block sizes"):
        list(differing(disks["odd"], Disk(disks["odd"].reader, record)))


# Damage


class Damaged:
    """A repository with one raw and one compressed block of 64 KiB, and methods to damage it."""

    def __init__(self, path: Path) -> None:
        self.path = new_repository(path, LARGE)
        self.image = random.Random(9).randbytes(LARGE) + b"some text" * (LARGE // 9 + 1)
        self.disk = add_point(self.path, {"disk": self.image}).disks[0]
        (self.pack,) = self.path.glob("packs/*/*")

    def frame(self, codec: Codec) -> Frame:
        frames, _ = packs_at(self.path / "packs").frames(PackId(self.pack.name))
        return next(f for f in frames if f.codec is codec and f.level == 0)

    def flip(self, offset: int) -> None:
        data = bytearray(self.pack.read_bytes())
        data[offset] ^= 1
        self.pack.write_bytes(data)


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tmp_path / "repo")


def test_a_damaged_piece_fails_and_the_rest_of_its_chunk_reads(damaged: Damaged) -> None:
    damaged.flip(damaged.frame(Codec.STORED).payload_offset + 5 * BLOCK)
    with reading(damaged.path) as repository:
        disk = Reader(repository).disk(damaged.disk)

        assert bytes(disk.read(BLOCK, BLOCK)) == damaged.image[BLOCK : 2 * BLOCK]
        with pytest.raises(DataCorrupt):
            disk.read(5 * BLOCK, 10)
        with pytest.raises(DataCorrupt):
            disk.read(0, LARGE)
        assert bytes(disk.read(LARGE, LARGE)) == damaged.image[LARGE : 2 * LARGE]


@pytest.mark.parametrize("codec", list(Codec))
def test_the_error_names_the_damaged_chunk_and_extent(damaged: Damaged, codec: Codec) -> None:
    frame = damaged.frame(codec)
    damaged.flip(frame.payload_offset)
    start = 0 if codec is Codec.STORED else LARGE
    with (
        reading(damaged.path) as repository,
        pytest.raises(DataCorrupt, match=f"bytes {start} to .*chunk {frame.digest.hex()}"),
    ):
        Reader(repository).disk(damaged.disk).read(start, LARGE)


def test_a_lost_pack_is_a_missing_chunk(damaged: Damaged) -> None:
    damaged.pack.unlink()
    with reading(damaged.path) as repository, pytest.raises(ChunkMissing, match="gone"):
        Reader(repository).disk(damaged.disk).read(0, 10)


def test_an_unknown_root_is_a_missing_chunk(damaged: Damaged) -> None:
    record = replace(damaged.disk, root=Digest(b"r" * 32))
    with reading(damaged.path) as repository, pytest.raises(ChunkMissing, match="block map"):
        Reader(repository).disk(record).read(0, 10)


def test_a_root_of_a_disk_with_another_size_is_refused(damaged: Damaged) -> None:
    record = replace(damaged.disk, size=100 * LARGE)
    with reading(damaged.path) as repository, pytest.raises(CbtfsError):
        Reader(repository).disk(record).read(0, 10)


def test_chunks_of_another_block_size_are_refused(damaged: Damaged) -> None:
    record = replace(damaged.disk, block_size=LARGE // 2)
    with reading(damaged.path) as repository, pytest.raises(DataCorrupt):
        Reader(repository).disk(record).read(0, 10)


def test_an_error_states_the_remedy_once(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise CatalogDamaged("an entry of map fails its checksum")

    with reading(damaged.path) as repository:
        disk = Reader(repository).disk(damaged.disk)
        monkeypatch.setattr(View, "node", fail)
        with pytest.raises(DataCorrupt) as caught:
            disk.read(0, 10)

    assert str(caught.value).count("cbtfs repair") == 1


def test_a_moved_object_is_found_at_its_new_location(damaged: Damaged, tmp_path: Path) -> None:
    with reading(damaged.path) as repository:
        disk = Reader(repository, cache_bytes=0).disk(damaged.disk)
        assert bytes(disk.read(0, 10)) == damaged.image[:10]
        move_objects(damaged, repository, tmp_path)

        assert bytes(disk.read(0, len(damaged.image))) == damaged.image


def test_a_refresh_closes_a_deleted_pack(damaged: Damaged) -> None:
    with reading(damaged.path) as repository:
        reader = Reader(repository, cache_bytes=0)
        reader.disk(damaged.disk).read(0, 10)
        repository.packs.forget_open()  # as for the oldest of many open packs
        damaged.pack.unlink()
        assert f"{damaged.pack} (deleted)" in names_of_open_files()

        reader.refresh()

        assert f"{damaged.pack} (deleted)" not in names_of_open_files()


def names_of_open_files() -> set[str]:
    links = Path("/proc/self/fd").iterdir()
    return {os.readlink(link) for link in links if link.is_symlink()}


def move_objects(damaged: Damaged, repository: Repository, tmp_path: Path) -> None:
    """Move all objects to another pack in another process, as prune does."""
    other = new_repository(tmp_path / "other", LARGE)
    add_point(other, {"disk": damaged.image})
    (copy,) = other.glob("packs/*/*")
    target = damaged.path / "packs" / copy.name[:2]
    target.mkdir(exist_ok=True)
    shutil.copy(copy, target / copy.name)
    damaged.pack.unlink()
    repository.packs.forget_open()
    catch_up_elsewhere(damaged.path)


def catch_up_elsewhere(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cbtfs.store.repository import writing\n"
        "with writing(Path(sys.argv[1])) as repository: print(repository.findings)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True)


def test_a_reader_follows_a_rebuilt_catalog(damaged: Damaged) -> None:
    with reading(damaged.path) as repository:
        reader = Reader(repository, cache_bytes=0)
        disk = reader.disk(damaged.disk)
        assert bytes(disk.read(0, 10)) == damaged.image[:10]
        shutil.rmtree(damaged.path / "catalog")
        reader.refresh()
        catch_up_elsewhere(damaged.path)

        assert reader.refresh()
        assert bytes(disk.read(0, len(damaged.image))) == damaged.image


def test_a_refresh_returns_false_if_nothing_changed(damaged: Damaged) -> None:
    with reading(damaged.path) as repository:
        assert not Reader(repository).refresh()
