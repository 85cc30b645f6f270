import json
import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.make_points import BLOCK, add_point
from tests.mount.mount_process import Server, corrupt, locate, read_at, serving, wait_until

pytestmark = pytest.mark.mounts


def test_a_file_has_the_content_of_the_disk(
    mounted: Server, point: Manifest, image: bytearray
) -> None:
    assert mounted.disk(point).read_bytes() == image


@pytest.mark.parametrize("flags", [0, os.O_DIRECT])
def test_reads_at_any_offset_and_length_are_correct(
    mounted: Server, point: Manifest, image: bytearray, flags: int
) -> None:
    choose = random.Random(5)
    fd = os.open(mounted.disk(point), os.O_RDONLY | flags)
    try:
        for _ in range(300):
            offset = choose.randrange(len(image) + 2 * BLOCK)
            length = choose.choice([1, 511, BLOCK, 3 * BLOCK + 5, 40 * BLOCK])

            data = os.pread(fd, length, offset)

            assert data == image[offset : offset + length]
    finally:
        os.close(fd)


def test_a_read_ends_at_the_end_of_the_disk(
    mounted: Server, point: Manifest, image: bytearray
) -> None:
    disk = mounted.disk(point)

    assert read_at(disk, len(image) - 3, 100) == b"end"
    assert read_at(disk, len(image), 100) == b""
    assert read_at(disk, len(image) + BLOCK, 100) == b""


def test_attributes_match_the_point(mounted: Server, point: Manifest, image: bytearray) -> None:
    status = mounted.disk(point).stat()

    assert status.st_size == len(image)
    assert status.st_blocks == 81 * BLOCK // 512
    assert status.st_mtime == 1767225601
    assert stat.filemode(status.st_mode) == "-r--------"
    assert stat.filemode(mounted.folder(point).stat().st_mode) == "dr-x------"


def test_latest_links_to_the_newest_point(
    mounted: Server, repository: Path, image: bytearray
) -> None:
    newer = add_point(repository, {"disk": bytes(image[:BLOCK])})

    link = mounted.root / "vm" / "latest"
    assert wait_until(lambda: os.readlink(link) == newer.name)
    assert wait_until(lambda: (link / "disk.raw").stat().st_size == BLOCK)


def test_vm_json_describes_the_point(mounted: Server, point: Manifest) -> None:
    document = json.loads((mounted.folder(point) / "vm.json").read_bytes())

    assert document["point"] == point.point
    assert document["vm"]["name"] == "vm"
    assert [disk["size"] for disk in document["disks"]] == [point.disks[0].size]
    assert document["state"]["protected"] is False


def test_vm_json_follows_the_state(mounted: Server, repository: Path, point: Manifest) -> None:
    file = mounted.folder(point) / "vm.json"
    before = file.read_bytes()
    assert file.read_bytes() == before

    (repository / "points" / f"{point.point}.state").unlink()
    add_point(repository, {"disk": b"so that the state is looked at"})

    assert json.loads(file.read_bytes())["state"]["protected"] is True


def test_a_remount_keeps_inode_numbers(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    def numbers(server: Server) -> dict[str, int]:
        paths = [server.root / "vm", *(server.root / "vm").rglob("*")]
        return {str(path): path.lstat().st_ino for path in paths}

    with serving(repository, tmp_path / "mnt", "--workers=1") as server:
        before = numbers(server)
    add_point(repository, {"disk": b"another"})
    with serving(repository, tmp_path / "mnt") as server:
        after = numbers(server)

    assert before.items() <= after.items()
    assert len(set(after.values())) == len(after)


def test_a_corrupt_chunk_fails_only_its_own_reads_and_is_logged(
    mounted: Server, repository: Path, point: Manifest, image: bytearray
) -> None:
    digest = corrupt(repository, image[40 * BLOCK : 41 * BLOCK])
    disk, failed = mounted.disk(point), []

    for block in range(97):
        try:
            data = read_at(disk, block * BLOCK, BLOCK)
            assert data == image[block * BLOCK : (block + 1) * BLOCK]
        except OSError:
            failed.append(block)

    assert failed == [40]
    line = mounted.log.readline()
    for fact in (point.point, "disk disk", f"bytes {40 * BLOCK} to {41 * BLOCK}", digest):
        assert fact in line


def test_a_missing_pack_fails_the_read(
    mounted: Server, repository: Path, point: Manifest, image: bytearray
) -> None:
    pack, _ = locate(repository, image[:BLOCK])
    pack.unlink()

    with pytest.raises(OSError, match="Input/output error"):
        mounted.disk(point).read_bytes()
    assert read_at(mounted.disk(point), 8 * BLOCK, 16 * BLOCK) == bytes(16 * BLOCK)


@pytest.mark.parametrize("vm", ["../../etc", "a/b", ".", "a\nb\x1b[2J", "\u202egnp", "x" * 300])
def test_hostile_names_are_encoded(
    repository: Path, image: bytearray, tmp_path: Path, vm: str
) -> None:
    manifest = add_point(repository, {vm: bytes(image)}, vm=vm)

    with serving(repository, tmp_path / "mnt", "--workers=1") as server:
        (directory,) = server.root.iterdir()
        (disk,) = (directory / "latest").glob("*.raw")
        assert directory.name == manifest.vm.directory
        assert directory.name.isprintable()
        assert disk.read_bytes() == image


def test_a_file_system_in_a_disk_can_be_mounted(repository: Path, tmp_path: Path) -> None:
    source, inner = tmp_path / "source", tmp_path / "inner"
    source.mkdir()
    inner.mkdir()
    (source / "file").write_bytes(b"from inside" * 10_000)
    raw = tmp_path / "ext4.img"
    subprocess.run(["mkfs.ext4", "-q", "-d", source, raw, "16M"], check=True)
    point = add_point(repository, {"disk": raw.read_bytes()})

    with serving(repository, tmp_path / "mnt") as server:
        options = "loop,ro,nosuid,nodev,noexec"
        subprocess.run(["mount", "-o", options, server.disk(point), inner], check=True)
        try:
            content = (inner / "file").read_bytes()
        finally:
            subprocess.run(["umount", inner], check=True)

    assert content == (source / "file").read_bytes()
    assert server.wait() == 0
