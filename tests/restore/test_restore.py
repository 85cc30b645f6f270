"""A restored target equals the disk, and a failed restore never looks complete."""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.core.frame import Kind
from cbtfs.core.manifest import Manifest
from cbtfs.errors import (
    AccessDenied,
    CbtfsError,
    ChunkMissing,
    DataCorrupt,
    PointNotFound,
    UsageError,
)
from cbtfs.listing import find_point
from cbtfs.reader import Reader
from cbtfs.restore.disk import Restored, explain_loss, restore_disk
from cbtfs.store.catalog.records import MAP, integer_key
from cbtfs.store.catalog.update import Update
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import Repository, reading, writing
from tests.cli.run_cbtfs import CommandResult, process
from tests.make_points import BLOCK, add_point, new_repository

SIZE = 70 * BLOCK + 777
IMAGE = b"".join(bytes([n % 3 and n]) * BLOCK for n in range(71))[:SIZE]
"""Two blocks of data and one of zeros alternate; the disk ends within a block."""
_LOCK = struct.Struct("hhqqi4x")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = new_repository(tmp_path_factory.mktemp("r") / "repository")
    add_point(path, {"d": IMAGE})
    return path


@contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    done = subprocess.run(
        ["losetup", "--find", "--show", file], capture_output=True, text=True, check=True
    )
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def restore(
    repository: Path, target: Path, *, may_overwrite: bool = False, keeps_going: bool = False
) -> Restored:
    manifest = newest(repository)
    with reading(repository) as opened:
        return restore_disk(
            opened,
            manifest.point,
            manifest.disks[0],
            target,
            may_overwrite=may_overwrite,
            keeps_going=keeps_going,
        )


def newest(repository: Path) -> Manifest:
    with reading(repository) as opened:
        return newest_of(opened)


def newest_of(repository: Repository) -> Manifest:
    return find_point(repository, "vm@latest").manifest


def damage(repository: Path, block: int) -> None:
    """Flip a bit in the chunk of a block."""
    wanted = chunk_digest(IMAGE[block * BLOCK : (block + 1) * BLOCK].ljust(BLOCK, b"\0"))
    with reading(repository) as opened:
        with opened.catalog.view() as view:
            number = view.find(Kind.CHUNK, 0, wanted)
            assert number is not None
            location = view.location(number)
            assert location is not None
            pack = view.pack(location.pack)
            assert pack is not None
        path = opened.packs.path(pack.id)
    data = bytearray(path.read_bytes())
    data[location.frame.payload_offset + 5] ^= 1
    path.write_bytes(data)


def test_a_new_file_is_the_disk_and_sparse(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"

    restored = restore(repository, target)

    facts = target.stat()
    assert target.read_bytes() == IMAGE
    assert restored.data_bytes == sum(
        len(IMAGE[at : at + BLOCK]) for at in range(0, SIZE, BLOCK) if any(IMAGE[at : at + BLOCK])
    )
    assert facts.st_blocks * 512 < SIZE
    assert facts.st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["disk.raw"]


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([0, 0, 1, 2]), max_size=300),
    st.integers(0, 300 * BLOCK),
    st.integers(0, 300 * BLOCK),
)
def test_a_file_that_is_overwritten_is_the_disk(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], size: int, dirty: int
) -> None:
    folder = tmp_path_factory.mktemp("r")
    image = b"".join(bytes([block]) * BLOCK for block in blocks)[:size]
    path = new_repository(folder / "repository")
    add_point(path, {"d": image})
    target = folder / "disk.raw"
    target.write_bytes(b"\xff" * dirty)

    restore(path, target, may_overwrite=True)

    assert target.read_bytes() == image


def test_a_device_gets_its_first_bytes_only(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * (SIZE + 99 * BLOCK - SIZE % BLOCK))
    room = file.stat().st_size
    with loop_device(file) as device:
        restore(repository, device, may_overwrite=True)

        content = device.read_bytes()

    assert content[:SIZE] == IMAGE
    assert content[SIZE:] == b"\xff" * (room - SIZE)


def test_a_device_that_cannot_zero_ranges_is_written_with_zeros(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * 80 * BLOCK)

    def refuse(fd: int, request: int, argument: bytes) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("cbtfs.restore.target.fcntl.ioctl", refuse)
    with loop_device(file) as device:
        restore(repository, device, may_overwrite=True)

        content = device.read_bytes()

    assert content[:SIZE] == IMAGE
    assert content[SIZE:] == b"\xff" * (80 * BLOCK - SIZE)


def test_a_device_that_is_too_small_is_left_alone(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * 64 * BLOCK)
    with loop_device(file) as device:
        with pytest.raises(UsageError, match="too small"):
            restore(repository, device, may_overwrite=True)

        assert device.read_bytes() == b"\xff" * 64 * BLOCK


def test_a_device_in_use_is_left_alone(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * 80 * BLOCK)
    with loop_device(file) as device:
        held = os.open(device, os.O_RDONLY | os.O_EXCL)  # Like a mount or swap.
        try:
            with pytest.raises(UsageError, match="in use"):
                restore(repository, device, may_overwrite=True)
        finally:
            os.close(held)

        assert device.read_bytes() == b"\xff" * 80 * BLOCK


def test_a_file_under_a_loop_device_is_left_alone(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * 80 * BLOCK)
    with loop_device(file), pytest.raises(UsageError, match="in use"):
        restore(repository, file, may_overwrite=True)

    assert file.read_bytes() == b"\xff" * 80 * BLOCK


def test_a_file_that_another_program_locks_is_left_alone(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"\xff" * 10)
    with file.open("rb") as image:
        # As QEMU does it: a shared lock of the open file description, on one byte.
        lock = _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(UsageError, match="in use"):
            restore(repository, file, may_overwrite=True)

    assert file.read_bytes() == b"\xff" * 10


def test_an_existing_target_is_not_overwritten_without_force(
    repository: Path, tmp_path: Path
) -> None:
    file, link, folder = tmp_path / "disk.raw", tmp_path / "link", tmp_path / "folder"
    file.write_bytes(b"mine")
    link.symlink_to("nothing")
    folder.mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    for target in (file, link, folder, fifo):
        with pytest.raises(UsageError):
            restore(repository, target)
    for target in (link, folder, fifo):
        with pytest.raises(UsageError):
            restore(repository, target, may_overwrite=True)
    assert file.read_bytes() == b"mine"


def test_the_repository_is_no_target(repository: Path, tmp_path: Path) -> None:
    inside = tmp_path / "link"
    inside.symlink_to(repository)
    before = sorted(repository.rglob("*"))

    for target in (repository / "new", inside / "packs" / "new", repository / "repository.json"):
        with pytest.raises(UsageError, match="inside"):
            restore(repository, target, may_overwrite=True)
    assert sorted(repository.rglob("*")) == before


def test_a_link_to_a_file_is_followed(repository: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "disk.raw", tmp_path / "link"
    file.write_bytes(b"old")
    link.symlink_to(file)

    restore(repository, link, may_overwrite=True)

    assert link.is_symlink()
    assert file.read_bytes() == IMAGE


def test_a_folder_that_is_not_there_is_an_error(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(CbtfsError) as caught:
        restore(repository, tmp_path / "none" / "disk.raw")

    assert caught.value.exit_code == 1


def test_a_read_only_device_is_denied(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.write_bytes(bytes(80 * BLOCK))
    done = subprocess.run(
        ["losetup", "--read-only", "--find", "--show", file],
        capture_output=True,
        text=True,
        check=True,
    )
    device = Path(done.stdout.strip())
    try:
        with pytest.raises(AccessDenied):
            restore(repository, device, may_overwrite=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a repository in which blocks 4 and 5 are unreadable."""
    path = new_repository(tmp_path / "damaged")
    add_point(path, {"d": IMAGE})
    for block in (4, 5):
        damage(path, block)
    return path


def test_a_corrupt_chunk_leaves_no_file_that_looks_complete(damaged: Path, tmp_path: Path) -> None:
    new, old = tmp_path / "new.raw", tmp_path / "old.raw"
    old.write_bytes(IMAGE)

    for target in (new, old):
        with pytest.raises(DataCorrupt, match=f"bytes {4 * BLOCK} to {5 * BLOCK}"):
            restore(damaged, target, may_overwrite=True)

    assert not new.exists()
    assert old.read_bytes() == b""
    assert sorted(os.listdir(tmp_path)) == ["damaged", "old.raw"]


def test_keep_going_restores_the_rest(damaged: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"

    restored = restore(damaged, target, keeps_going=True)

    expected = bytearray(IMAGE)
    expected[4 * BLOCK : 6 * BLOCK] = bytes(2 * BLOCK)
    assert target.read_bytes() == expected
    assert restored.lost == (Extent(4 * BLOCK, 2 * BLOCK),)
    with pytest.raises(DataCorrupt):
        explain_loss(restored)


def test_keep_going_zeroes_lost_extents_of_a_device(damaged: Path, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * 80 * BLOCK)
    with loop_device(file) as device:
        restore(damaged, device, may_overwrite=True, keeps_going=True)

        content = device.read_bytes()

    assert content[4 * BLOCK : 6 * BLOCK] == bytes(2 * BLOCK)
    assert content[6 * BLOCK : SIZE] == IMAGE[6 * BLOCK :]


def drop_nodes(repository: Path, level: int) -> None:
    """Remove all nodes of a level from the catalog."""
    with writing(repository) as opened:

        def drop(update: Update) -> None:
            nodes = [
                (number, location)
                for number, location in update.all_locations()
                if location.frame.kind is Kind.NODE and location.frame.level == level
            ]
            assert nodes
            update.drop_objects(nodes)

        opened.catalog.update(drop)


@pytest.mark.parametrize(
    ("level", "lost"),
    [(1, [Extent(0, SIZE)]), (2, [Extent(0, SIZE)])],
    ids=["leaves", "root"],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_the_range_of_a_missing_node_is_lost_and_not_zeros(
    tmp_path: Path, level: int, lost: list[Extent], is_stream: bool
) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": IMAGE})
    drop_nodes(path, level)
    manifest, target = newest(path), tmp_path / "disk.raw"

    with pytest.raises((ChunkMissing, DataCorrupt)):
        restore(path, target)
    assert not target.exists()
    with reading(path) as opened, (tmp_path / "stream").open("wb") as stream:
        where = stream.fileno() if is_stream else target
        restored = restore_disk(opened, manifest.point, manifest.disks[0], where, keeps_going=True)

    assert list(restored.lost) == lost
    assert restored.data_bytes == 0
    with pytest.raises((ChunkMissing, DataCorrupt)):
        explain_loss(restored)


@pytest.mark.parametrize("lost", [Extent(0, 64 * BLOCK), Extent(64 * BLOCK, 3 * BLOCK)])
def test_only_the_range_of_a_damaged_leaf_is_lost(tmp_path: Path, lost: Extent) -> None:
    path = new_repository(tmp_path / "repository")
    image = bytes([1]) * BLOCK + bytes(63 * BLOCK) + bytes([2]) * BLOCK * 3
    add_point(path, {"d": image})
    with writing(path) as opened:
        disk = newest_of(opened).disks[0]
        reader = Reader(opened)
        root = reader.root(disk)
        assert root is not None
        leaf = reader.children(root, 2)[lost.start // (64 * BLOCK)]
        assert leaf is not None
        key = integer_key(leaf.number)
        opened.catalog.update(lambda update: update._delete(MAP, key))

    restored = restore(path, tmp_path / "disk.raw", keeps_going=True)

    assert restored.lost == (lost,)
    expected = image[: lost.start] + bytes(lost.length) + image[lost.end :]
    assert (tmp_path / "disk.raw").read_bytes() == expected


def test_keep_going_survives_a_lost_pack(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": IMAGE}, pack_bytes=BLOCK)
    lost = sorted((path / "packs").glob("*/*"))[0]
    lost.unlink()

    restored = restore(path, tmp_path / "disk.raw", keeps_going=True)

    content = (tmp_path / "disk.raw").read_bytes()
    expected = bytearray(IMAGE)
    for extent in restored.lost:
        expected[extent.start : extent.end] = bytes(extent.length)
    assert content == expected


def test_a_point_is_leased_meanwhile(repository: Path, tmp_path: Path) -> None:
    manifest = newest(repository)
    leases: list[bool] = []

    def look(_: int) -> None:
        with (repository / "points" / manifest.point).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                leases.append(True)

    with reading(repository) as opened:
        restore_disk(opened, manifest.point, manifest.disks[0], tmp_path / "disk.raw", advance=look)

    assert leases


def test_a_point_that_is_gone_is_not_restored(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    manifest = add_point(path, {"d": IMAGE})
    with reading(path) as opened:
        (path / "points" / manifest.point).unlink()
        with pytest.raises(PointNotFound):
            restore_disk(opened, manifest.point, manifest.disks[0], tmp_path / "disk.raw")
    with writing(path):
        """The catch-up drops the point."""

    assert not (tmp_path / "disk.raw").exists()


def test_the_command_reports_its_result(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"

    done = process("--repo", repository, "restore", "vm@latest", "d", target, "--json")
    again = process("--repo", repository, "restore", "vm@latest", "d", target)

    document = done.document
    assert (done.code, done.err) == (0, "")
    assert document.pop("seconds") >= 0
    assert document == {
        "point": newest(repository).point,
        "vm": "vm",
        "time": "2026-01-01T00:00:01Z",
        "name": "2026-01-01T00-00-01Z",
        "disk": "d",
        "target": str(target),
        "format": "raw",
        "size": SIZE,
        "data_bytes": 47 * BLOCK - BLOCK + SIZE % BLOCK,
        "marker": None,
        "lost": [],
    }
    assert again == CommandResult(
        2, "", f"cbtfs: {target} already exists: use --force to overwrite it\n"
    )


def test_the_command_lists_lost_extents_and_exits_with_21(damaged: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    arguments = ("--repo", damaged, "restore", "vm@latest", "d", target)

    stopped = process(*arguments)
    kept_going = process(*arguments, "--keep-going", "--json")

    assert stopped.code == 21
    assert "--keep-going" in stopped.err
    assert kept_going.code == 21
    assert kept_going.document["lost"] == [{"start": 4 * BLOCK, "length": 2 * BLOCK}]
