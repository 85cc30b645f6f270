"""The images in `as`, as QEMU and NBD clients use them."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent, coalesce, widen
from cbtfs.core.frame import Kind
from cbtfs.core.manifest import Manifest, Vm
from cbtfs.store.repository import reading
from tests.cli.run_cbtfs import process
from tests.make_points import BLOCK, add_point, new_repository
from tests.mount.mount_process import forget, kill, serving, wait_until

pytestmark = pytest.mark.mounts

TIB = 1 << 40
HOSTILE = 'nbd:"a,b\n'
"""Label of a disk: a descriptor cannot contain the quotation mark."""


@dataclass(frozen=True)
class History:
    """A repository with two points of one VM, whose disks have odd sizes."""

    repository: Path
    old: Manifest
    new: Manifest


def qemu_img(*command: str | Path) -> str:
    done = subprocess.run(["qemu-img", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def history(tmp_path: Path) -> History:
    source = random.Random(9)
    repository = new_repository(tmp_path / "repository")
    root = bytearray(source.randbytes(700 * BLOCK))
    root[100 * BLOCK : 500 * BLOCK] = bytes(400 * BLOCK)
    disks = {"root": bytes(root), "odd": b"x" * (BLOCK + 1), "empty": b"", "grown": b"g" * 70000}
    disks[HOSTILE] = b"hostile" * 100
    old = add_point(repository, disks)
    changed = sorted(source.sample(range(700), 40))
    for block in changed:
        root[block * BLOCK : (block + 1) * BLOCK] = source.randbytes(BLOCK)
    disks |= {"root": bytes(root), "grown": b"g" * 70000 + b"more" * 50000}
    new = add_point(repository, disks, changed={"root": changed})
    return History(repository, old, new)


@pytest.fixture
def images(history: History, tmp_path: Path) -> Iterator[Path]:
    """The directory `as` of the newer point."""
    with serving(history.repository, tmp_path / "mnt") as server:
        yield server.folder(history.new) / "as"
    assert server.wait() == 0


def test_images_are_found_and_listed_only_by_their_own_name(history: History, images: Path) -> None:
    listed = sorted(os.listdir(images))

    assert "as" not in os.listdir(images.parent)
    assert listed == [
        *("empty.qcow2", "grown.qcow2", "grown.vmdk"),
        *('nbd%3A"a,b%0A.qcow2', "odd.qcow2", "odd.vmdk", "root.qcow2", "root.vmdk"),
    ]
    document = json.loads((images.parent / "vm.json").read_bytes())
    paths = [path for disk in document["disks"] for path in disk["images"]]
    assert sorted(path.removeprefix("as/") for path in paths) == listed
    since = images / f"root.since-{history.old.name}.qcow2"
    assert since.stat().st_ino == (images / "root.since-latest~1.qcow2").stat().st_ino
    for name in (
        *("other.qcow2", "root", "root.raw", "root.since-.qcow2", "root.since-2020.qcow2"),
        *(f"root.since-{history.new.name}.qcow2", "root.since-latest.qcow2"),
        f"empty.since-{history.old.name}.qcow2",
    ):
        assert not (images / name).exists()
    assert not (images.parent.parent / history.old.name / "as" / since.name).exists()
    earlier = images.parent.parent / history.old.name / "as"
    assert not (earlier / f"root.since-{history.new.name}.qcow2").exists()


def test_qemu_finds_no_error_and_the_same_bytes(history: History, images: Path) -> None:
    names = [*os.listdir(images), f"root.since-{history.old.name}.qcow2"]
    for name in names:
        image, raw = images / name, images.parent / f"{name.partition('.')[0]}.raw"
        qemu_img("compare", "-f", "raw", "-F", image.suffix[1:], raw, image)
        if image.suffix == ".qcow2":
            assert "No errors were found" in qemu_img("check", image)


def test_the_map_of_an_image_is_that_of_the_point(history: History, images: Path) -> None:
    """A cluster of 64 KiB is data if any of its blocks is."""
    mapped = json.loads(qemu_img("map", "--output=json", images / "root.qcow2"))
    extents = process("--repo", history.repository, "extents", "vm", "root", "--json").document

    data = coalesce(Extent(e["start"], e["length"]) for e in mapped if not e["zero"])
    blocks = [Extent(e["start"], e["length"]) for e in extents if e["state"] == "data"]
    expected = list(widen(blocks, 65536, history.new.disks[0].size))
    assert list(data) == expected
    assert len(expected) > 1


@contextmanager
def nbd_export(image: Path, bitmap: str, folder: Path) -> Iterator[str]:
    """Serve an image with a bitmap by qemu-nbd; yield the URI."""
    socket, pid = folder / "nbd.socket", folder / "nbd.pid"
    options = ("--read-only", "--persistent", "--fork", f"--socket={socket}", f"--pid-file={pid}")
    subprocess.run(
        ["qemu-nbd", *options, "--format=qcow2", f"--bitmap={bitmap}", image],
        check=True,
    )
    server = int(pid.read_text())
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        kill(server)
        assert wait_until(lambda: not Path(f"/proc/{server}").exists())


def test_a_bitmap_is_the_difference_of_the_points(
    history: History, images: Path, tmp_path: Path
) -> None:
    for disk in ("root", "grown"):
        compare_bitmap(history, images, tmp_path, disk)


def compare_bitmap(history: History, images: Path, tmp_path: Path, disk: str) -> None:
    name = f"since-{history.old.name}"
    with nbd_export(images / f"{disk}.{name}.qcow2", name, tmp_path) as uri:
        command = ["nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", uri]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = process(
        *("--repo", history.repository, "diff", f"vm@{history.old.name}"),
        *(f"vm@{history.new.name}", disk, "--json"),
    ).document

    dirty = [(e["offset"], e["length"]) for e in json.loads(done.stdout) if e["type"] == 1]
    assert dirty
    assert [(o, -(-n // 512) * 512) for o, n in dirty] == [
        (e["start"], -(-e["length"] // 512) * 512) for e in expected
    ]


def test_a_renamed_vm_does_not_redirect_an_image(history: History, tmp_path: Path) -> None:
    """Another VM takes the name, and a point of it has the same time."""

    def renamed(manifest: Manifest) -> Manifest:
        vm = history.new.vm
        return replace(manifest, vm=Vm(vm.id, "vm2", "vm2"), order=9, name="later")

    def successor(manifest: Manifest) -> Manifest:
        return replace(manifest, name=history.new.name, order=10)

    with serving(history.repository, tmp_path / "mnt") as server:
        image = server.root / ".by-id" / history.new.vm.id / history.new.name / "as" / "root.qcow2"
        path = json.loads(qemu_img("info", "--output=json", image))
        add_point(history.repository, {"root": bytes(BLOCK)}, change=renamed)
        add_point(history.repository, {"root": b"?" * 700 * BLOCK}, vm="vm3", change=successor)
        assert wait_until((server.root / "vm2").exists)

        data_file = Path(path["format-specific"]["data"]["data-file"])
        assert data_file.is_absolute()
        assert f"/.by-id/{history.new.vm.id}/" in str(data_file)
        raw = server.root / "vm2" / history.new.name / "root.raw"
        qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, image)


def test_an_open_image_of_forgotten_points_stays_readable(history: History, tmp_path: Path) -> None:
    """Both points are leased, and a new worker finds them."""
    with serving(history.repository, tmp_path / "mnt", "--workers=1") as server:
        path = server.folder(history.new) / "as" / f"root.since-{history.old.name}.qcow2"
        expected = path.read_bytes()
        with path.open("rb", buffering=0) as file:
            for point in (history.old.point, history.new.point):
                forget(history.repository, point)
            assert process("--repo", history.repository, "prune").code == 0
            (worker,) = server.workers()
            kill(worker)
            assert wait_until(lambda: server.workers() not in ({worker}, set()))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

            assert os.pread(file.fileno(), len(expected), 0) == expected
            assert wait_until(lambda: not path.exists())  # the kernel caches names for a moment


def test_a_damaged_map_is_an_error_and_never_a_hole(history: History, tmp_path: Path) -> None:
    with reading(history.repository) as repository, repository.catalog.view() as view:
        (disk,) = [disk for disk in history.new.disks if disk.label == "root"]
        assert view.find(Kind.NODE, 2, disk.root) is not None
    damaged = replace(disk, root=type(disk.root)(bytes(31) + b"1"))

    def change(manifest: Manifest) -> Manifest:
        return replace(manifest, disks=(damaged, *manifest.disks[1:]))

    point = add_point(history.repository, {"root": b"1"}, change=change)
    with serving(history.repository, tmp_path / "mnt") as server:
        image = server.folder(point) / "as" / "root.qcow2"

        with pytest.raises(OSError, match="Input/output error"):
            image.read_bytes()


def test_a_disk_beyond_two_tebibytes(tmp_path: Path) -> None:
    """Two points of a sparse disk; the last block differs."""
    size = 2 * TIB + 512
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size)
    repository = tmp_path / "repository"
    assert process("--repo", repository, "init").code == 0
    for content in (b"old", b"new"):
        with disk.open("r+b") as file:
            file.seek(2 * TIB)
            file.write(content)
        done = process("--repo", repository, "ingest", "image", "--vm=vm", f"--disk=root={disk}")
        assert done.code == 0, done.err
    with serving(repository, tmp_path / "mnt") as server:
        images = server.root / "vm" / "latest" / "as"
        vmdk = json.loads(qemu_img("info", "--output=json", images / "root.vmdk"))
        (name,) = [
            n
            for n in os.listdir(server.root / "vm")
            if n not in ("latest", os.readlink(server.root / "vm" / "latest"))
        ]
        since = f"since-{name}"
        with nbd_export(images / f"root.{since}.qcow2", since, tmp_path) as uri:
            command = ["nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{since}", uri]
            mapped = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

        assert vmdk["virtual-size"] == size
        assert [e["offset"] for e in mapped if e["type"] == 1] == [2 * TIB]
