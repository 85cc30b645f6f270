"""A restore in place makes any target equal the disk, and writes only what differs."""

import errno
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.core.manifest import Manifest
from cbtfs.errors import (
    AccessDenied,
    ChunkMissing,
    DataCorrupt,
    SourceMismatch,
    TargetFailed,
    UsageError,
)
from cbtfs.restore import in_place_target
from cbtfs.restore.in_place import Base, InPlaceOptions, InPlaceResult, restore_in_place
from cbtfs.store.repository import reading
from tests.make_points import BLOCK, add_point, new_repository
from tests.restore.test_restore import damage, loop_device
from tests.source.nbd.storage_daemon import qemu_nbd

SIZE = 70 * BLOCK + 777
IMAGE = b"".join(bytes([n % 3 and n]) * BLOCK for n in range(71))[:SIZE]
_LOCK = struct.Struct("hhqqi4x")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = new_repository(tmp_path_factory.mktemp("r") / "repository")
    add_point(path, {"d": IMAGE})
    return path


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return newest(repository)


def newest(repository: Path) -> Manifest:
    from cbtfs.listing import find_point

    with reading(repository) as opened:
        return find_point(opened, "vm@latest").manifest


def restore(
    repository: Path,
    manifest: Manifest,
    target: Path | str,
    base: Manifest | None = None,
    **options: Any,
) -> InPlaceResult:
    start = None if base is None else Base(base.point, base.disks[0], "the base")
    with reading(repository) as opened:
        return restore_in_place(
            opened,
            manifest.point,
            manifest.disks[0],
            str(target),
            InPlaceOptions(start, **options),
        )


def image_of(blocks: list[int], size: int) -> bytes:
    return b"".join(bytes([block]) * BLOCK for block in blocks)[:size].ljust(size, b"\0")


_BLOCKS = st.lists(st.sampled_from([0, 0, 1, 2, 3]), max_size=150)
_SIZES = st.integers(0, 150 * BLOCK)


@settings(max_examples=25, deadline=None)
@given(_BLOCKS, _SIZES, _BLOCKS, _SIZES, st.binary(max_size=50), st.randoms())
def test_any_target_becomes_the_disk_and_a_later_point_follows_from_the_difference(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: list[int],
    size: int,
    others: list[int],
    other_size: int,
    rest: bytes,
    chance: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("r")
    first, second = image_of(blocks, size), image_of(others, other_size)
    path = new_repository(folder / "repository")
    points = [add_point(path, {"d": image}) for image in (first, second)]
    target = folder / "disk.raw"
    length = max(size, other_size)
    before = bytearray(first.ljust(length, b"\xee") + rest)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(length + 1)
        before[at : min(at + BLOCK, length)] = b"\xff" * (min(at + BLOCK, length) - at)
    target.write_bytes(before)

    result = restore(path, points[0], target, verifies=True)

    oracle = bytearray(before)
    oracle[:size] = first
    assert target.read_bytes() == oracle
    stray = {at // BLOCK for at in range(size) if before[at] != first[at]}
    assert result.bytes_written == sum(len(first[b * BLOCK : (b + 1) * BLOCK]) for b in stray)
    assert result.bytes_skipped == size - result.bytes_written

    result = restore(path, points[1], target, points[0])

    oracle[:other_size] = second
    assert target.read_bytes() == oracle
    unlike = [
        len(second[at : at + BLOCK])
        for at in range(0, other_size, BLOCK)
        if second[at : at + BLOCK] != first[at : at + BLOCK][: len(second[at : at + BLOCK])]
    ]
    assert result.bytes_written <= sum(unlike)

    result = restore(path, points[0], target)

    oracle[:size] = first
    assert target.read_bytes() == oracle


def test_an_equal_target_is_not_written(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(IMAGE)
    before = target.stat().st_mtime_ns

    result = restore(repository, manifest, target)

    assert (result.bytes_written, result.bytes_skipped) == (0, SIZE)
    assert target.stat().st_mtime_ns == before


def test_holes_of_the_target_are_not_read_and_zeros_become_holes(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    sparse, dense = tmp_path / "sparse.raw", tmp_path / "dense.raw"
    sparse.touch()
    os.truncate(sparse, 64 << 20)
    dense.write_bytes(b"\xff" * SIZE)

    result = restore(repository, manifest, sparse)
    restore(repository, manifest, dense)

    blocks = (IMAGE[at : at + BLOCK] for at in range(0, SIZE, BLOCK))
    assert result.bytes_read == sum(len(block) for block in blocks if any(block))
    assert result.bytes_beyond == (64 << 20) - SIZE
    assert sparse.read_bytes()[:SIZE] == dense.read_bytes() == IMAGE
    assert dense.stat().st_blocks * 512 < SIZE


def test_a_file_system_without_holes_gets_zeros(
    repository: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, start: int, length: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(in_place_target, "_punch", refuse)
    target = tmp_path / "disk.raw"
    target.write_bytes(b"\xff" * SIZE)

    restore(repository, manifest, target)

    assert target.read_bytes() == IMAGE


def test_a_device_gets_its_first_bytes_only(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    file = tmp_path / "device"
    file.write_bytes(IMAGE[: 9 * BLOCK].ljust(99 * BLOCK, b"\xff"))
    with loop_device(file) as device:
        result = restore(repository, manifest, device, verifies=True)

        content = device.read_bytes()

    assert content == IMAGE + b"\xff" * (99 * BLOCK - SIZE)
    assert result.bytes_written == SIZE - 9 * BLOCK
    assert result.is_verified
    assert not list(tmp_path.glob("*.cbtfs"))


@pytest.mark.parametrize("options", [(), ("--shared=4", "--discard=unmap")])
def test_an_export_becomes_the_disk(
    repository: Path, manifest: Manifest, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(IMAGE[: 9 * BLOCK].ljust(99 * BLOCK, b"\xff"))
    with writable_export(file, *options) as uri:
        result = restore(repository, manifest, uri, verifies=True)
        again = restore(repository, manifest, uri)

    assert file.read_bytes() == IMAGE + b"\xff" * (99 * BLOCK - SIZE)
    assert result.bytes_written == SIZE - 9 * BLOCK
    assert again.bytes_written == 0
    assert result.is_verified
    assert not list(tmp_path.glob("*.cbtfs"))


@contextmanager
def writable_export(file: Path, *options: str) -> Iterator[str]:
    with qemu_nbd(file, "-f", "raw", *options, is_read_only=False) as uri:
        yield uri


def test_a_read_only_export_is_refused(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(bytes(99 * BLOCK))
    with qemu_nbd(file, "-f", "raw") as uri, pytest.raises(AccessDenied, match="read-only"):
        restore(repository, manifest, uri)


def test_devices_and_exports_have_no_trusted_state(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(IMAGE.ljust(99 * BLOCK, b"\xff"))
    state = tmp_path / "state"
    with loop_device(file) as device:
        restore(repository, manifest, device)
        with pytest.raises(UsageError, match="--compare"):
            restore(repository, manifest, device, manifest)
        with pytest.raises(UsageError, match="not a regular file"):
            restore(repository, manifest, device, state=state)
    with writable_export(file) as uri, pytest.raises(UsageError, match="--compare"):
        restore(repository, manifest, uri, manifest)

    assert not state.exists()


def test_unsuitable_targets_are_refused_unchanged(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    small, folder, fifo = tmp_path / "small", tmp_path / "folder", tmp_path / "fifo"
    small.write_bytes(b"\xff" * (SIZE - 1))
    folder.mkdir()
    os.mkfifo(fifo)
    inside = repository / "repository.json"
    before = inside.read_bytes()

    for target, why in {
        small: "too small",
        folder: "neither",
        fifo: "neither",
        tmp_path / "none": "does not exist",
        inside: "inside the repository",
    }.items():
        with pytest.raises(UsageError, match=why):
            restore(repository, manifest, target)
    assert small.read_bytes() == b"\xff" * (SIZE - 1)
    assert inside.read_bytes() == before
    assert not list(tmp_path.glob("*.cbtfs"))


def test_an_image_in_another_format_is_refused_as_a_file_and_restored_by_its_server(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    file, raw = tmp_path / "disk.img", tmp_path / "raw"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(file), str(99 * BLOCK)]
    subprocess.run(create, check=True)
    os.truncate(file, 99 * BLOCK)
    before = file.read_bytes()

    with pytest.raises(UsageError, match="is a qcow2 image"):
        restore(repository, manifest, file)
    assert not list(tmp_path.glob("*.cbtfs"))
    raw.write_bytes(bytes(99 * BLOCK))
    restore(repository, manifest, raw)
    file.rename(raw)
    with pytest.raises(UsageError, match="is a qcow2 image"):  # A marker is of one inode.
        restore(repository, manifest, raw)
    assert raw.read_bytes() == before

    subprocess.run(create, check=True)
    with qemu_nbd(file, "-f", "qcow2", is_read_only=False) as uri:
        restore(repository, manifest, uri, verifies=True)

    convert = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(file), str(raw)]
    subprocess.run(convert, check=True)
    assert raw.read_bytes() == IMAGE.ljust(99 * BLOCK, b"\0")


def test_a_file_that_became_an_image_after_a_restore_is_refused(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """The inode stays the same; the marker is of the content before."""
    file = tmp_path / "disk.img"
    file.write_bytes(bytes(99 * BLOCK))
    restore(repository, manifest, file)
    inode = file.stat().st_ino
    image = tmp_path / "image.qcow2"
    size = str(99 * BLOCK)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), size], check=True)
    os.truncate(image, 99 * BLOCK)
    file.write_bytes(image.read_bytes())
    assert file.stat().st_ino == inode

    with pytest.raises(UsageError, match="is a qcow2 image"):
        restore(repository, manifest, file)

    assert file.read_bytes() == image.read_bytes()


def test_a_magic_number_from_the_guest_never_stops_a_later_restore(tmp_path: Path) -> None:
    path, target = new_repository(tmp_path / "repository"), tmp_path / "disk.raw"
    plain, magic = b"1" * 3 * BLOCK, b"QFI\xfb" + b"1" * 3 * BLOCK
    points = [add_point(path, {"d": image[: 3 * BLOCK]}) for image in (magic, plain)]
    target.write_bytes(magic[: 3 * BLOCK])

    for point, image in zip(points, (magic, plain), strict=True):
        restore(path, point, target)
        assert target.read_bytes() == image[: 3 * BLOCK]


def test_a_target_in_use_is_left_alone(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"\xff" * 80 * BLOCK)
    with file.open("rb") as image:  # As QEMU locks images.
        lock = _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(UsageError, match="in use"):
            restore(repository, manifest, file)
    with loop_device(file) as device:
        with pytest.raises(UsageError, match="in use"):
            restore(repository, manifest, file)
        held = os.open(device, os.O_RDONLY | os.O_EXCL)  # Like a mount or swap.
        try:
            with pytest.raises(UsageError, match="in use"):
                restore(repository, manifest, device)
        finally:
            os.close(held)

    assert file.read_bytes() == b"\xff" * 80 * BLOCK


@pytest.mark.mounts
def test_a_mounted_device_is_refused(repository: Path, manifest: Manifest, tmp_path: Path) -> None:
    file, mountpoint = tmp_path / "device", tmp_path / "mnt"
    mountpoint.mkdir()
    file.touch()
    os.truncate(file, 1 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", file], check=True)
    with loop_device(file) as device:
        subprocess.run(["mount", device, mountpoint], check=True)
        try:
            with pytest.raises(UsageError, match="in use"):
                restore(repository, manifest, device)
        finally:
            subprocess.run(["umount", mountpoint], check=True)


def test_a_device_without_discard_gets_zeros(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """As a device whose kernel driver cannot zero: fallocate(2) is refused."""
    file = tmp_path / "device"
    file.write_bytes(b"\xff" * 99 * BLOCK)
    with loop_device(file) as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cbtfs.restore.target.fcntl.ioctl", _refuse)
        restore(repository, manifest, device)

        content = device.read_bytes()

    assert content == IMAGE + b"\xff" * (99 * BLOCK - SIZE)


def _refuse(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_a_file_in_a_mount_of_cbtfs_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"\xff" * SIZE)
    facts = file.stat()
    table = tmp_path / "mountinfo"
    number = f"{os.major(facts.st_dev)}:{os.minor(facts.st_dev)}"
    table.write_text(f"1 2 {number} / {tmp_path} ro - fuse cbtfs ro\n")
    monkeypatch.setattr("cbtfs.store.file_system.MOUNTS", table)

    with (
        pytest.raises(UsageError, match="in a mount of cbtfs"),
        in_place_target.open_in_place(str(file), SIZE, repository),
    ):
        pass


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a repository in which blocks 4 and 5 are unreadable."""
    path = new_repository(tmp_path / "damaged")
    add_point(path, {"d": IMAGE})
    for block in (4, 5):
        damage(path, block)
    return path


def test_a_damaged_chunk_ends_the_run_before_the_target_is_marked(
    damaged: Path, tmp_path: Path
) -> None:
    manifest, target = newest(damaged), tmp_path / "disk.raw"
    target.write_bytes(b"\xff" * SIZE)

    with pytest.raises(DataCorrupt, match="--keep-going"):
        restore(damaged, manifest, target)
    with pytest.raises(SourceMismatch, match="did not end"):
        restore(damaged, manifest, target, manifest)

    result = restore(damaged, manifest, target, keeps_going=True, verifies=True)

    expected = bytearray(IMAGE)
    expected[4 * BLOCK : 6 * BLOCK] = bytes(2 * BLOCK)
    assert target.read_bytes() == expected
    assert result.lost == [Extent(4 * BLOCK, 2 * BLOCK)]
    assert isinstance(result.loss, DataCorrupt)
    with pytest.raises(SourceMismatch, match="did not end"):
        restore(damaged, manifest, target, manifest)


def test_a_damaged_chunk_that_the_target_holds_is_not_lost(damaged: Path, tmp_path: Path) -> None:
    manifest, target = newest(damaged), tmp_path / "disk.raw"
    target.write_bytes(bytes(BLOCK) + IMAGE[BLOCK:])

    assert restore(damaged, manifest, target).lost == []
    assert target.read_bytes() == IMAGE


def test_a_missing_block_map_is_lost_as_a_whole(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(b"\xff" * (SIZE + 5))
    record = replace(manifest.disks[0], root=type(manifest.disks[0].root)(b"\1" * 32))
    unknown = replace(manifest, disks=(record,))

    with pytest.raises(ChunkMissing):
        restore(repository, unknown, target)
    assert target.read_bytes() == b"\xff" * (SIZE + 5)

    result = restore(repository, unknown, target, keeps_going=True)

    assert result.lost == [Extent(0, SIZE)]
    assert target.read_bytes() == bytes(SIZE) + b"\xff" * 5


def test_a_target_that_another_program_changes_does_not_verify(
    repository: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(b"\xff" * SIZE)

    def spoil(opened: in_place_target.InPlaceFile) -> None:
        with target.open("r+b") as file:
            file.seek(8 * BLOCK + 3)
            file.write(b"stray")

    monkeypatch.setattr(in_place_target.InPlaceFile, "drop_cache", spoil)

    with pytest.raises(TargetFailed, match=f"byte {8 * BLOCK}"):
        restore(repository, manifest, target, verifies=True)
    with pytest.raises(SourceMismatch, match="did not end"):
        restore(repository, manifest, target, manifest)
