"""Replays of journals of a busy ext3 or ext4, compared block by block with e2fsck.

`CBTFS_JOURNALS=200 pytest tests/files/jbd2/test_oracle.py` compares 200 images, in a minute or two.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from cbtfs.files.jbd2.replay import ReplayedVolume, replayed
from tests.files.jbd2.busy import SHAPES, Writer, copied, mounted, run
from tests.volumes.images import Memory, file_of

_IMAGES: Final = int(os.environ.get("CBTFS_JOURNALS", "10"))
_COPIES: Final = 1 if len(SHAPES) >= _IMAGES else 5
"""Copies from one mount; later ones have a log that has wrapped."""
_WRITTEN_BY_E2FSCK: Final = ((0x30, 4), (0x178, 8), (0x3FC, 4))
"""Offset and length in the superblock: time of the last write, kilobytes written, checksum."""
_CHUNK: Final = 1 << 20


def _images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield copies of busy file systems, all shapes in turn."""
    made = 0
    for seed in count():
        for name, shape in SHAPES.items():
            with mounted(shape, folder) as (image, root):
                writer = Writer(root, seed)
                for number in range(_COPIES):
                    writer.work(60 if number == 0 and _COPIES > 1 else 150)
                    yield f"{name}, seed {seed}, copy {number}", copied(image, folder / "copy")
                    made += 1
                    if made == _IMAGES:
                        return


def _masked(offset: int, data: bytes) -> bytes:
    if offset:
        return data
    masked = bytearray(data)
    for at, length in _WRITTEN_BY_E2FSCK:
        masked[1024 + at : 1024 + at + length] = bytes(length)
    return bytes(masked)


def _differences(volume: ReplayedVolume, checked: Path) -> list[int]:
    """Return the numbers of the blocks that differ."""
    other = Memory(checked.read_bytes())
    assert volume.size == other.size
    size, found = volume.block_bytes, []
    for offset in range(0, other.size, _CHUNK):
        ours, theirs = (_masked(offset, s.read(offset, _CHUNK)) for s in (volume, other))
        if ours != theirs:
            pairs = range(0, len(ours), size)
            found += [
                (offset + at) // size for at in pairs if ours[at:][:size] != theirs[at:][:size]
            ]
    return found


@pytest.mark.mounts
@pytest.mark.limit(3600 if len(SHAPES) < _IMAGES else 300)
def test_a_replayed_volume_equals_that_of_e2fsck(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for name, image in _images(tmp_path):
        volume = replayed(Memory(image.read_bytes()))
        assert volume is not None, name
        subprocess.run(["e2fsck", "-y", "-E", "journal_only", image], capture_output=True)

        assert _differences(volume, image) == [], name
        counts["images"] += 1
        counts["blocks"] += len(volume.replaced)

    print(dict(counts))
    assert counts["images"] == _IMAGES
    assert counts["blocks"] > 20 * _IMAGES


@pytest.mark.mounts
def test_a_file_that_was_fsynced_is_visible_after_the_replay_only(tmp_path: Path) -> None:
    with mounted(SHAPES["4k-64bit-v3"], tmp_path) as (image, root):
        path = root / "fsynced"
        with path.open("w") as file:
            file.write("content")
            file.flush()
            os.fsync(file.fileno())
        copied(image, tmp_path / "copy")
    volume = replayed(file_of(tmp_path / "copy"))
    assert volume is not None
    (tmp_path / "replayed").write_bytes(volume.read(0, volume.size))

    assert "fsynced" not in run("debugfs", "-R", "ls", tmp_path / "copy")
    assert run("debugfs", "-R", "cat /fsynced", tmp_path / "replayed") == "content"
    run("e2fsck", "-fn", tmp_path / "replayed")


def test_a_volume_without_a_pending_journal_is_not_replayed(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    assert replayed(file_of(image)) is None

    run("mke2fs", "-q", "-t", "ext4", image)
    assert replayed(file_of(image)) is None
