"""Partitions and logical volumes in the mount, as other programs use them."""

import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent, coalesce
from cbtfs.core.manifest import Manifest
from tests.make_points import BLOCK, add_point, new_repository
from tests.mount.mount_process import (
    Server,
    corrupt,
    data_extents,
    forget,
    kill,
    read_at,
    serving,
    wait_until,
)
from tests.volumes.images import MIB, gpt_disk, lvm_tools, sfdisk
from tests.volumes.test_lvm import expected_pieces

pytestmark = pytest.mark.mounts

FILE = "a file of the guest\n"


@dataclass(frozen=True)
class Guest:
    """A repository with a point of a VM with file systems on partitions and on a striped volume."""

    repository: Path
    point: Manifest
    images: dict[str, bytes]
    volumes: dict[str, bytes]
    """Content of the file systems by path below `slices`."""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    folder = tmp_path_factory.mktemp("guest")
    (folder / "content").mkdir()
    (folder / "content" / "file").write_text(FILE)
    file_systems = {}
    for name, size in (("ext4", 2), ("ntfs", 2)):
        with (folder / name).open("wb") as file:
            file.truncate(size * MIB)
    run("mkfs.ext4", "-q", "-d", folder / "content", folder / "ext4")
    run("mkfs.ntfs", "--force", "--fast", "--quiet", folder / "ntfs")
    file_systems = {name: (folder / name).read_bytes() for name in ("ext4", "ntfs")}
    disk = folder / "root"
    with disk.open("wb") as file:
        file.truncate(6 * MIB)
    sfdisk(disk, "label: gpt\nstart=2048, size=4096\nstart=6144, size=4096\n")
    root = bytearray(disk.read_bytes())
    root[MIB : 3 * MIB], root[3 * MIB : 5 * MIB] = file_systems["ext4"], file_systems["ntfs"]
    with lvm_tools(folder, [4 * MIB, 4 * MIB]) as (lvm, files):
        lvm.run("vgcreate", "--physicalextentsize=256k", "vg0", *lvm.devices)
        lvm.create("--name=data", "--stripes=2", "--stripesize=64k", "--size=2M", "vg0")
        pieces = expected_pieces(lvm, "data", 256 << 10)
    data = [bytearray(file.read_bytes()) for file in files]
    for number, piece in enumerate(pieces):
        part = file_systems["ext4"][number * piece.length : (number + 1) * piece.length]
        data[piece.disk][piece.offset : piece.offset + piece.length] = part
    images = {"root": bytes(root), "data 0": bytes(data[0]), "data 1": bytes(data[1])}
    repository = new_repository(folder / "repository")
    volumes = {
        "root.p1.raw": file_systems["ext4"],
        "root.p2.raw": file_systems["ntfs"],
        "vg0/data.raw": file_systems["ext4"],
    }
    return Guest(repository, add_point(repository, images), images, volumes)


@pytest.fixture
def slices(guest: Guest, tmp_path: Path) -> Iterator[Path]:
    """The directory `slices` of the point, mounted."""
    with serving(guest.repository, tmp_path / "mnt", "--workers=2") as server:
        yield server.folder(guest.point) / "slices"
    assert server.wait() == 0


def test_slices_are_found_and_listed_only_by_their_own_name(guest: Guest, slices: Path) -> None:
    listed = sorted(os.listdir(slices.parent))

    assert listed == ["data 0.raw", "data 1.raw", "root.raw", "vm.json"]
    assert sorted(os.listdir(slices)) == ["root.p1.raw", "root.p2.raw", "vg0"]
    assert os.listdir(slices / "vg0") == ["data.raw"]
    assert not (slices / "other").exists()
    assert not (slices / "vg0" / "root.p1.raw").exists()
    assert not (slices.parent.parent / "slices").exists()
    assert json.loads((slices.parent / "vm.json").read_bytes())["slices"] == "slices"


def test_slices_have_the_bytes_of_the_guests_volumes(guest: Guest, slices: Path) -> None:
    source = random.Random(1)
    for path, content in guest.volumes.items():
        status = (slices / path).stat()

        assert (slices / path).read_bytes() == content
        assert status.st_size == len(content)
        assert status.st_mtime_ns == slices.parent.stat().st_mtime_ns
        assert stat.S_IMODE(status.st_mode) == 0o400
        for _ in range(20):
            offset, length = source.randrange(len(content) + 9), source.randrange(1, 300_000)
            assert read_at(slices / path, offset, length) == content[offset : offset + length]


_ONLY_COMPILED = """
from cbtfs.cli.main import run
from cbtfs.mount.filesystem import FileSystem
def read(*_):
    raise ValueError("Python must not answer this read")
FileSystem.read = read
run()
"""


def test_compiled_code_answers_reads_of_slices(guest: Guest, tmp_path: Path) -> None:
    program = (sys.executable, "-c", _ONLY_COMPILED)
    with serving(guest.repository, tmp_path / "mnt", "--workers=2", program=program) as server:
        slices = server.folder(guest.point) / "slices"

        for path, content in guest.volumes.items():
            assert (slices / path).read_bytes() == content


def test_holes_of_slices_are_the_zero_blocks_of_their_disks(guest: Guest, slices: Path) -> None:
    for path, content in guest.volumes.items():
        blocks = range(0, len(content), BLOCK)
        data = [Extent(at, BLOCK) for at in blocks if any(content[at : at + BLOCK])]

        assert data_extents(slices / path) == list(coalesce(data))


def test_tools_for_file_systems_accept_slices(guest: Guest, slices: Path, tmp_path: Path) -> None:
    """Without root's tools for partitions: fsck, debugfs, ntfsinfo, and a loop mount."""
    mounted = tmp_path / "guest"
    mounted.mkdir()
    for path in ("root.p1.raw", "vg0/data.raw"):
        run("fsck.ext4", "-n", "-f", slices / path)

        assert run("debugfs", "-R", "cat /file", slices / path) == FILE
        run("mount", "-o", "loop,ro,noload", slices / path, mounted)
        try:
            assert (mounted / "file").read_text() == FILE
        finally:
            run("umount", mounted)
    assert "Volume Information" in run("ntfsinfo", "--mft", slices / "root.p2.raw")


def test_numbers_survive_a_remount_and_the_death_of_workers(guest: Guest, tmp_path: Path) -> None:
    def numbers(server: Server) -> dict[str, int]:
        folder = server.folder(guest.point) / "slices"
        paths = [".", "vg0", *guest.volumes]
        return {path: (folder / path).stat().st_ino for path in paths}

    with serving(guest.repository, tmp_path / "mnt", "--workers=1") as server:
        first = numbers(server)
    with serving(guest.repository, tmp_path / "mnt", "--workers=1") as server:
        assert numbers(server) == first
        assert len({*first.values()}) == 5
        path = server.folder(guest.point) / "slices" / "vg0" / "data.raw"
        with path.open("rb", buffering=0) as file:
            (worker,) = server.workers()
            kill(worker)
            wait_until(lambda: server.workers() not in ({worker}, set()))

            assert (
                os.pread(file.fileno(), 3 * BLOCK, MIB)
                == guest.volumes["vg0/data.raw"][MIB : MIB + 3 * BLOCK]
            )


# Points that are damaged or forgotten


@pytest.fixture
def image() -> bytes:
    """Return a disk with a GPT of one partition of noise."""
    disk = gpt_disk(MIB, 512, [(1024, 1535)])
    disk[MIB // 2 : MIB * 3 // 4] = random.Random(2).randbytes(MIB // 4)
    return bytes(disk)


def test_an_open_slice_of_a_forgotten_point_stays_readable(
    repository: Path, point: Manifest, image: bytes, mounted: Server
) -> None:
    path = mounted.folder(point) / "slices" / "disk.p1.raw"
    with path.open("rb", buffering=0) as file:
        forget(repository, point.point)
        assert wait_until(lambda: not path.exists())

        assert os.pread(file.fileno(), MIB, 0) == image[MIB // 2 : MIB * 3 // 4]


def test_a_corrupt_block_of_a_slice_is_an_error(
    repository: Path, point: Manifest, image: bytes, mounted: Server
) -> None:
    path = mounted.folder(point) / "slices" / "disk.p1.raw"
    corrupt(repository, image[MIB // 2 + BLOCK : MIB // 2 + 2 * BLOCK])

    with pytest.raises(OSError, match="Input/output error"):
        read_at(path, BLOCK, BLOCK)
    assert read_at(path, 0, BLOCK) == image[MIB // 2 : MIB // 2 + BLOCK]


def test_an_unreadable_table_or_label_is_an_error(
    repository: Path, point: Manifest, image: bytes, mounted: Server
) -> None:
    """An absent name would mean that the guest has no such volume."""
    folder = mounted.folder(point) / "slices"
    corrupt(repository, image[MIB // 2 : MIB // 2 + BLOCK])

    assert (folder / "disk.p1.raw").stat().st_size == MIB // 4
    for path in (folder / "vg0", folder / "disk.p9.raw"):
        with pytest.raises(OSError, match="Input/output error"):
            path.stat()
    with pytest.raises(OSError, match="Input/output error"):
        os.listdir(folder)
    corrupt(repository, image[:BLOCK])
    with pytest.raises(OSError, match="Input/output error"):
        (folder / "disk.p2.raw").stat()
