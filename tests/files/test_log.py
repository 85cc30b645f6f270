"""The log of a file in points of a real ext4, compared with opening every point."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.files import engines, volume_at
from cbtfs.files.engine_parse.processes import ParsersByKind
from cbtfs.files.ext.replayed import ExtFileSystem
from cbtfs.files.jbd2.log import LogBlock
from cbtfs.files.log import FilePath, FileState, file_versions
from cbtfs.files.parsing import open_file_system
from cbtfs.files.protocol import FileSystem, GuestFileMissing
from cbtfs.files.volumes import Volume, volumes_of
from cbtfs.reader import Reader
from cbtfs.store.repository import reading
from tests.files.jbd2.busy import Shape, mounted, run
from tests.make_points import add_point, new_repository

SHAPE = Shape("-t ext4 -b 1024 -J size=1 -O metadata_csum,64bit", "commit=600", mib=5)
PATH = "/etc/app/app.conf"
POINTS = 18


def write(path: Path, content: bytes) -> None:
    """Write in place and flush."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    flush(path.parent)


def flush(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def change(root: Path, kind: int, number: int) -> None:
    """Change the file, its path, or another file; flush all changes."""
    path, folder = root / PATH[1:], root / "etc" / "app"
    if kind == 0 and folder.exists():
        write(path, f"version {number}\n".encode() * 400)
    elif kind == 1 and path.exists():
        path.chmod(0o600 + number % 2)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    elif kind == 2 and path.exists():
        path.unlink()
        flush(folder)
    elif kind == 3:
        folder.rename(root / "etc" / "away") if folder.exists() else None
        flush(root / "etc")
    elif kind == 4 and not folder.exists():
        (root / "etc" / "away").rename(folder)
        flush(root / "etc")
    else:
        write(root / "var" / f"log{kind}", os.urandom(3000 + 7 * number))


@contextmanager
def points(
    folder: Path, seed: int, block_bytes: int = 1 << 16
) -> Iterator[tuple[Reader, list[Manifest]]]:
    """Yield points of a guest: some of it running, some of it shut down."""
    source, manifests = random.Random(seed), []
    repository = new_repository(folder / "repository", block_bytes)
    with mounted(SHAPE, folder) as (image, root):
        for name in ("etc/app", "var"):
            (root / name).mkdir(parents=True)
        for number in range(9):
            write(root / "etc" / f"other-{number}", b"other")
        write(root / PATH[1:], b"version 0\n" * 400)
        for number in range(POINTS):
            kind = (0, 1, 2, 0, 3, 4)[number // 3] if number % 3 == 2 else 5 + number % 4
            if number % 4 == 1:
                run("fsfreeze", "--freeze", root)
            manifests.append(add_point(repository, {"root": image.read_bytes()}))
            if number % 4 == 1:
                run("fsfreeze", "--unfreeze", root)
            change(root, kind, source.randrange(1000))
    with reading(repository) as opened:
        yield Reader(opened), manifests


def by_walk(reader: Reader, manifests: list[Manifest], path: str) -> list[tuple[int, int]]:
    """Return first and last point of each version."""
    found, at = [], 0
    for _, group in groupby(_seen(reader, manifest, path) for manifest in manifests):
        count = len(list(group))
        found.append((at, at + count - 1))
        at += count
    return found


def _seen(reader: Reader, manifest: Manifest, path: str) -> object:
    volume = volumes_of(reader, manifest).named("root")
    file_system = ExtFileSystem(volume.source)
    try:
        entry = file_system.stat(path)
    except GuestFileMissing:
        return None
    facts = (entry.inode, entry.mode, entry.size, entry.modified_ns, entry.changed_ns)
    return facts, file_system.read(path, 0, 1 << 20)


@pytest.mark.mounts
def test_the_log_equals_a_walk_over_all_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def opened(volume: Volume, seconds: float, servers: ParsersByKind | None) -> FileSystem:
        assert servers is not None
        looks.append(volume.name)
        return open_file_system(volume, seconds, servers)

    monkeypatch.setattr(engines, "open_file_system", opened)
    with points(tmp_path, 1) as (reader, manifests):
        found = list(file_versions(reader, manifests, FilePath("root", PATH)))
        counted = len(looks)
        expected = by_walk(reader, manifests, PATH)
        monkeypatch.setattr(volume_at, "_MOST_DIFFERING", 1)
        again = list(file_versions(reader, manifests, FilePath("root", PATH)))
        other = list(file_versions(reader, manifests, FilePath("root", "/etc/other-7")))
        missing = list(file_versions(reader, manifests, FilePath("data", PATH)))

    assert [(version.first, version.last) for version in found] == expected
    assert again == found
    assert 5 < len(expected) < counted + 1 <= POINTS * 2 // 3
    states = [version.sighting.state for version in found]
    assert None in states
    assert all(state is None or isinstance(state, FileState) for state in states)
    assert [(version.first, version.last) for version in other] == [(0, POINTS - 1)]
    assert [version.sighting.state for version in missing] == [None]


@pytest.mark.mounts
def test_a_replay_with_what_the_one_before_decoded_is_the_same(tmp_path: Path) -> None:
    with points(tmp_path, 2, 4096) as (reader, manifests):
        before, decoded = None, 0
        kept: set[LogBlock] = set()
        for manifest in manifests:
            volume = volumes_of(reader, manifest).named("root")
            disks = [reader.disk(record) for record in manifest.disks]
            at = volume_at.VolumeAt(volume, disks, before)
            alone = volume_at.VolumeAt(volume, disks)
            if before is not None:
                kept = set(before._memo.blocks.values())
            ours, theirs = at._replayed, alone._replayed

            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                assert ours.replaced == theirs.replaced
                assert all(ours.place(block) == theirs.place(block) for block in ours.replaced)
                assert ours.read(0, at.source.size) == theirs.read(0, at.source.size)
            decoded += len(kept & set(at._memo.blocks.values()))
            before = at

    assert decoded > 5


def test_a_file_system_that_becomes_unreadable_is_a_version(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "file").write_text("content")
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tmp_path / "content", image)
    intact = image.read_bytes()
    damaged = bytearray(intact)
    damaged[1024 + 0x20 : 1024 + 0x24] = bytes(4)
    repository = new_repository(tmp_path / "repository")
    images = [intact, intact, bytes(damaged), bytes(damaged), intact]
    manifests = [add_point(repository, {"root": data}) for data in images]
    manifests.append(add_point(repository, {"data": intact}))
    with reading(repository) as opened:
        found = list(file_versions(Reader(opened), manifests, FilePath("root", "/file")))

    assert [(version.first, version.last) for version in found] == [(0, 1), (2, 3), (4, 4), (5, 5)]
    states = [version.sighting.state for version in found]
    assert isinstance(states[1], FileState)
    assert "volume root" in states[1].failure
    assert states[0] == states[2]
    assert states[3] is None
