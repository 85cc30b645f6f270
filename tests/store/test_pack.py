"""Packs: immutable files whose readers verify everything."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.frame import (
    ENTRY_BYTES,
    FOOTER_BYTES,
    FRAME_HEADER_BYTES,
    PACK_HEADER_BYTES,
    Frame,
    Kind,
)
from cbtfs.core.ids import PackId
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.identity import new_pack_id
from cbtfs.store.packs import PackFolder
from tests.store.folders import packs_at

ENCODER = Encoder()
RAW = random.Random(3).randbytes(20000)
CONTENTS = [b"a" * 5000, RAW, b"b" * 4096, RAW[:4096], b"c", RAW[:4097]]


@pytest.fixture
def folder(tmp_path: Path) -> PackFolder:
    return packs_at(tmp_path)


def write_pack(folder: PackFolder, contents: Sequence[bytes]) -> tuple[PackId, list[Frame]]:
    """Return a closed pack with *contents* as chunks."""
    writer = folder.create(new_pack_id())
    for content in contents:
        writer.append(ENCODER.encode(Kind.CHUNK, 0, chunk_digest(content), content))
    writer.close()
    return writer.id, writer.frames


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def test_appended_frames_are_read_back(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)

    opened = folder.open(pack)
    assert [opened.load(frame) for frame in frames] == CONTENTS


def test_the_trailer_lists_the_frames(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)

    assert folder.frames(pack) == (frames, None)


def test_an_empty_pack_has_no_frames(folder: PackFolder) -> None:
    pack, _ = write_pack(folder, [])

    assert folder.frames(pack) == ([], None)


def test_close_returns_the_size_of_the_file(folder: PackFolder) -> None:
    writer = folder.create(new_pack_id())
    writer.append(ENCODER.encode(Kind.CHUNK, 0, chunk_digest(RAW), RAW))

    assert writer.close() == folder.path(writer.id).stat().st_size


def test_an_open_pack_is_not_listed(folder: PackFolder) -> None:
    writer = folder.create(new_pack_id())

    assert folder.ids() == set()
    writer.close()
    assert folder.ids() == {writer.id}


def test_an_open_pack_of_a_stale_writer_is_removed(folder: PackFolder) -> None:
    kept, _ = write_pack(folder, CONTENTS)
    stale = folder.path(kept).with_name(kept[:2] + "0" * 30 + ".open")
    stale.write_bytes(b"header")

    assert folder.remove_leftovers() == 1
    assert [path.name for path in folder.path(kept).parent.iterdir()] == [kept]


def test_an_open_pack_of_a_running_writer_stays(folder: PackFolder) -> None:
    writer = folder.create(new_pack_id())

    assert folder.remove_leftovers() == 0
    assert folder.count_leftovers() == 1
    writer.abandon()


def test_an_abandoned_pack_leaves_nothing(folder: PackFolder) -> None:
    writer = folder.create(new_pack_id())
    writer.append(ENCODER.encode(Kind.CHUNK, 0, chunk_digest(RAW), RAW))
    writer.abandon()

    assert list(folder.path(writer.id).parent.iterdir()) == []


def test_an_absent_pack_is_a_missing_chunk(folder: PackFolder) -> None:
    with pytest.raises(ChunkMissing, match="gone"):
        folder.open(new_pack_id())


@pytest.mark.parametrize("at", [0, 4, 20, 30, 60, FRAME_HEADER_BYTES - 1])
def test_a_flipped_bit_in_a_frame_header_is_found(folder: PackFolder, at: int) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    flip(folder.path(pack), frames[1].offset + at)
    opened = folder.open(pack)

    with pytest.raises(DataCorrupt, match="frame"):
        opened.load(frames[1])


def test_another_object_at_its_place_is_a_missing_one(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)

    with pytest.raises(ChunkMissing, match="another object"):
        folder.open(pack).load(frames[3]._replace(offset=frames[5].offset))


def cut_places(frames: Sequence[Frame], size: int) -> list[int]:
    ends = [place for frame in frames for place in (frame.offset, frame.payload_offset, frame.end)]
    return sorted({0, 5, *(end + by for end in ends for by in (-1, 0, 1)), size - 1})


def test_a_truncated_pack_yields_only_its_complete_frames(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    whole = folder.path(pack).read_bytes()
    for size in reversed(cut_places(frames, len(whole))):
        os.truncate(folder.path(pack), size)
        folder.forget_open()

        scanned, problem = folder.frames(pack)
        assert problem is not None
        assert scanned == [frame for frame in frames if frame.end <= size]


def test_a_load_beyond_the_end_is_refused(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    opened = folder.open(pack)
    for size in cut_places(frames, frames[-1].end)[::-1]:
        os.truncate(folder.path(pack), size)
        for frame, content in zip(frames, CONTENTS, strict=True):
            if frame.end <= size:
                assert opened.load(frame) == content
            else:
                with pytest.raises(CbtfsError):
                    opened.load(frame)


def test_a_damaged_trailer_costs_nothing_but_a_scan(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    whole = folder.path(pack).read_bytes()
    for at in range(frames[-1].end, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        folder.path(pack).write_bytes(damaged)
        folder.forget_open()
        scanned, problem = folder.frames(pack)

        assert scanned == frames
        assert problem is not None
        assert pack in problem


@pytest.mark.parametrize("window", [1, 4, 95, 96, 97, 1000, 4096])
def test_a_scan_finds_the_same_frames_through_any_window(
    folder: PackFolder, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the window cuts magic, header, table and payload, each in turn."""
    pack, frames = write_pack(folder, CONTENTS)
    flip(folder.path(pack), frames[2].offset + 6)
    flip(folder.path(pack), folder.path(pack).stat().st_size - 1)
    monkeypatch.setattr("cbtfs.store.pack._WINDOW_BYTES", window)

    assert folder.frames(pack)[0] == frames[:2] + frames[3:]


@pytest.mark.parametrize("lost", range(len(CONTENTS)))
def test_a_scan_finds_the_frames_around_a_damaged_header(folder: PackFolder, lost: int) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    flip(folder.path(pack), frames[lost].offset + 6)
    flip(folder.path(pack), folder.path(pack).stat().st_size - 1)

    assert folder.frames(pack)[0] == frames[:lost] + frames[lost + 1 :]


def test_a_scan_is_not_misled_by_a_pack_inside_a_chunk(folder: PackFolder) -> None:
    inner, _ = write_pack(folder, [RAW])
    guest = folder.path(inner).read_bytes()
    pack, frames = write_pack(folder, [guest, b"x" * 100])
    flip(folder.path(pack), folder.path(pack).stat().st_size - 1)

    assert folder.frames(pack)[0] == frames


def test_a_scan_passes_over_holes(folder: PackFolder) -> None:
    """A pack of nearly 4 GiB, whose last frames follow a hole."""
    pack, frames = write_pack(folder, CONTENTS)
    whole = folder.path(pack).read_bytes()
    hole = (4 << 30) - len(whole) - 1
    with folder.path(pack).open("r+b") as file:
        file.seek(hole)
        file.write(whole[PACK_HEADER_BYTES:])
    folder.forget_open()

    scanned, _ = folder.frames(pack)

    moved = [f._replace(offset=f.offset + hole - PACK_HEADER_BYTES) for f in frames]
    assert scanned == frames + moved


def test_a_trailer_that_is_too_large_is_not_loaded(
    folder: PackFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    monkeypatch.setattr("cbtfs.store.pack.MAX_TRAILER_BYTES", ENTRY_BYTES * (len(frames) - 1))

    scanned, problem = folder.frames(pack)

    assert scanned == frames
    assert problem is not None
    assert "too large" in problem


def test_a_pack_under_the_name_of_another_is_scanned(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    other = PackId(pack[:2] + "0" * 30)
    folder.path(pack).rename(folder.path(other))

    scanned, problem = folder.frames(other)
    assert scanned == frames
    assert problem is not None


@settings(max_examples=15)
@given(st.binary(max_size=400))
def test_noise_is_a_pack_without_frames(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    folder = packs_at(tmp_path_factory.mktemp("noise"))
    pack = new_pack_id()
    folder.path(pack).parent.mkdir()
    folder.path(pack).write_bytes(noise)

    scanned, problem = folder.frames(pack)
    assert scanned == []
    assert problem is not None


def test_packs_are_found_again_after_more_are_open_than_are_kept(folder: PackFolder) -> None:
    packs = [write_pack(folder, [bytes([n]) * 50]) for n in range(140)]
    loaded = [folder.open(pack).load(frames[0]) for pack, frames in packs * 2]

    assert loaded == [bytes([n]) * 50 for n in range(140)] * 2


def test_a_pack_begins_and_ends_as_the_format_says(folder: PackFolder) -> None:
    pack, frames = write_pack(folder, CONTENTS)
    data = folder.path(pack).read_bytes()

    assert data[:8] == b"CBTFSPAK"
    assert frames[0].offset == PACK_HEADER_BYTES
    assert data[-FOOTER_BYTES:][:8] == b"CBTFSEND"
