"""SEEK_DATA and SEEK_HOLE in the mount: programs see the holes that `cbtfs extents` lists."""

import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from cbtfs.store.repository import writing
from tests.cli.run_cbtfs import runner
from tests.make_points import BLOCK, MEMORY, manifest_of, new_repository
from tests.mount.mount_process import Server, data_extents, serving, try_seek
from tests.patterned_disks import (
    PatternedDisk,
    add_patterned_point,
    object_writer,
    put_dense_disk,
    random_disk,
)

pytestmark = pytest.mark.mounts

GROUP: Final = 64 * 64
"""Blocks of one part of a map."""
BOUND: Final = 2 * GROUP
"""Blocks that one seek searches at most."""
LARGE: Final = PatternedDisk(200 << 30, [(0, 3), (GROUP - 5, BOUND + GROUP), (40 << 20, 7)], BLOCK)
"""A disk whose second run is longer than the range that one seek searches."""


def seek(path: Path, offset: int, kind: int) -> int | None:
    """Return the result of one seek, or None for ENXIO."""
    with path.open("rb") as file:
        return try_seek(file.fileno(), offset, kind)


def expected_seek(disk: PatternedDisk, offset: int, kind: int) -> int | None:
    """Return the result of a seek that is not bounded."""
    if offset >= disk.size:
        return None
    for extent in disk.extents():
        if offset < extent.end:
            if kind == os.SEEK_DATA:
                return max(offset, extent.start)
            return offset if offset < extent.start else extent.end
    return None if kind == os.SEEK_DATA else offset


def test_the_holes_of_random_disks_are_those_that_extents_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = new_repository(tmp_path / "repository")
    disks = {f"d{seed}": random_disk(seed, 1 + seed**4, BLOCK) for seed in range(14)}
    disks["long"] = PatternedDisk(5 * BOUND * BLOCK, [(9, 3 * BOUND)], BLOCK)
    point = add_patterned_point(repository, disks)
    run = runner(repository, capsys)
    rng = random.Random(6)
    with serving(repository, tmp_path / "mnt", "--workers=2") as server:
        for label, disk in disks.items():
            path = server.disk(point, label)
            with path.open("rb") as file:
                for _ in range(0 if label == "long" else 60):
                    offset = rng.randrange(disk.size + 2 * BLOCK)
                    kind = rng.choice([os.SEEK_DATA, os.SEEK_HOLE])
                    result = try_seek(file.fileno(), offset, kind)
                    assert result == expected_seek(disk, offset, kind)
            assert data_extents(path) == disk.extents()

            shown = subprocess.run(
                ["qemu-img", "map", "--output=json", "-f", "raw", path],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            listed = run("extents", "vm@latest", label, "--format=qemu")
            assert json.loads(shown) == listed.document


@pytest.mark.parametrize("file", ["vm/latest/vm.json", ".cbtfs/status.json"])
def test_a_document_has_no_holes(mounted: Server, file: str) -> None:
    path = mounted.root / file
    size = path.stat().st_size

    assert (seek(path, 9, os.SEEK_DATA), seek(path, 9, os.SEEK_HOLE)) == (9, size)
    assert seek(path, size, os.SEEK_DATA) is seek(path, size, os.SEEK_HOLE) is None


COPIES: Final = {
    "cp": 'cp "$0" "$1"',
    "tar": 'tar -C "${0%/*}" -cSf - "${0##*/}" | tar -C "${1%/*}" -xSf - --transform s/.*/copy/',
    "qemu-img": 'qemu-img convert -f raw -O raw "$0" "$1"',
    "qemu-nbd": 'nbdcopy -- [ qemu-nbd -r -f raw "$0" ] "$1"',
    "nbdkit": 'nbdcopy -- [ nbdkit --exit-with-parent -r file "$0" ] "$1"',
}
"""Scripts that copy a disk; $0 is the disk, $1 the file to create."""


def test_programs_skip_holes_and_copy_all_data(tmp_path: Path) -> None:
    """A program that read 200 GiB of zeros would not finish in time."""
    point = add_patterned_point(repository := new_repository(tmp_path / "repository"), {"d": LARGE})
    results = {}
    with (
        serving(repository, tmp_path / "mnt", "--workers=2") as server,
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
    ):
        for name, script in COPIES.items():
            copy = Path(folder) / "copy"
            done = subprocess.run(
                ["sh", "-c", script, server.disk(point, "d"), copy],
                check=False,
                capture_output=True,
                text=True,
            )
            results[name] = done.stderr or is_copy(copy, LARGE)
            copy.unlink(missing_ok=True)

    assert results == dict.fromkeys(COPIES, True)


def is_copy(path: Path, disk: PatternedDisk) -> bool:
    """Return whether a file has the size, the data and the holes of a disk."""
    if path.stat().st_size != disk.size or data_extents(path) != disk.extents():
        return False
    with path.open("rb") as file:
        for first, count in disk.runs:
            file.seek(first * BLOCK)
            for block in range(first, first + count):
                if file.read(BLOCK) != disk.content(block):
                    return False
    return True


def test_seeks_in_a_dense_disk_are_bounded_and_quick(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repository", 64 << 10)
    with writing(repository) as opened:
        objects = object_writer(opened)
        try:
            dense = put_dense_disk(objects, "disk", 4, 64 << 10)
            opened.commit(objects, point := manifest_of("vm", None, (dense,)))
        finally:
            objects.close()
    assert dense.size == 1 << 40
    seconds = []
    with (
        serving(repository, tmp_path / "mnt", "--workers=2") as server,
        server.disk(point).open("rb") as file,
    ):
        for share in range(50):
            offset = dense.size // 50 * share
            started = time.perf_counter()
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            seconds.append(time.perf_counter() - started)
            assert offset < end <= offset + BOUND * dense.block_size
            assert os.lseek(file.fileno(), end, os.SEEK_DATA) == end

    # The median, because a busy machine may interrupt any single request.
    assert statistics.median(seconds) < 0.1
