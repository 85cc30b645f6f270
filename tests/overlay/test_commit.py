"""`overlay commit`: the new point equals the overlay, costs what was written, has no change ID."""

import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import reading, writing
from tests.make_points import add_point, commit_point, read_point
from tests.overlay.overlay_site import BLOCK, MIB, OverlaySite, committed, on_sectors, write_at

pytestmark = pytest.mark.mounts

VCENTER: Final = "0123"


def load(site: OverlaySite, point: str) -> Manifest:
    with reading(site.repository) as repository:
        return repository.points.read_manifest(PointId(point))


def qemu_io(uri: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-d", "unmap", "-f", "raw", *words, uri], check=True, capture_output=True
    )


def test_commits_equal_the_overlay_and_read_what_it_wrote(
    site: OverlaySite, tmp_path: Path
) -> None:
    """An older point of a vSphere VM with a change ID is the base of two commits."""

    def of_vsphere(manifest: Manifest) -> Manifest:
        disks = tuple(replace(disk, change_id="52 aa/7") for disk in manifest.disks)
        return replace(manifest, disks=disks, vm=replace(manifest.vm, vcenter=VCENTER))

    site.point = add_point(site.repository, site.images, vm="db1", change=of_vsphere)
    with writing(site.repository) as repository:
        newer = {**site.images, "root": bytes(MIB)}
        commit_point(repository, newer, vm="db1", change=of_vsphere)
    site.create()
    expected = bytearray(site.images["root"])

    document = site.run(site.act("start", "lab", "--fork", f"--nbd={tmp_path}"))
    uri = document["disks"][0]["location"]
    qemu_io(uri, "write -P 7 70000 5000", f"discard 0 {BLOCK}", f"write -z {BLOCK * 50} 512")
    site.run(site.act("stop", "lab"))
    expected[70000:75000] = b"\7" * 5000
    expected[:BLOCK] = bytes(BLOCK)
    expected[BLOCK * 50 : BLOCK * 50 + 512] = bytes(512)
    first = site.run(site.act("commit", "lab"))
    with site.started():
        write_at(site.overlay / "root.raw", 3 * MIB, b"again")
    expected[3 * MIB : 3 * MIB + 5] = b"again"
    second = site.run(site.act("commit", "lab"))

    assert (first["vm"], first["kind"], first["consistency"]) == (
        *("db1+lab", "incremental"),
        "crash-consistent",
    )
    assert [disk["read_bytes"] for disk in first["disks"]] == [3 * BLOCK, 1024]  # and the end
    assert second["disks"][0]["read_bytes"] == 4 * BLOCK
    points = [load(site, document["point"]) for document in (first, second)]
    assert [point.metadata["overlay"]["point"] for point in points] == [site.point.point] * 2
    for disk in (disk for point in points for disk in point.disks):
        assert (disk.change_id, disk.parent) == (None, site.point.point)
    ids = [[disk.id for disk in point.disks] for point in points]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & {disk.id for disk in site.point.disks}
    content = read_point(site.repository, points[1])
    assert content["root"] == expected
    assert content["data"] == on_sectors(site.images["data"])
    _vsphere_is_refused(site)


def _vsphere_is_refused(site: OverlaySite) -> None:
    for name in ("db1", site.point.vm.id):
        refused = site.run(site.act("commit", "lab", f"--as={name}"), code=2)
        assert "comes from vSphere" in refused["error"]["message"]
    site.run(site.act("commit", "lab", "--as=repaired"))
    assert site.run(site.command("show", "repaired"))["kind"] == "incremental"


@pytest.mark.parametrize("options", [(), ("--limit=32M",)])
def test_random_writes_zeros_and_discards_equal_the_commit(
    site: OverlaySite, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A discard is zeros in whole clusters; a part of a cluster keeps its bytes."""
    rnd = random.Random(7)
    site.create(*options)
    expected = {name: bytearray(on_sectors(image)) for name, image in site.images.items()}
    commands: dict[str, list[str]] = {name: [] for name in expected}
    for _ in range(120):
        name, action = (
            rnd.choice(["root", "root", "data"]),
            rnd.choice(["write", "zero", "discard"]),
        )
        content = expected[name]
        start = rnd.randrange(len(content) // 512) * 512
        length = min(rnd.randrange(1, 400) * 512, len(content) - start)
        end = start + length
        if action == "write":
            value = rnd.randrange(1, 256)
            commands[name].append(f"write -P {value} {start} {length}")
            content[start:end] = bytes([value]) * length
        elif action == "zero":
            commands[name].append(f"write -z {rnd.choice(['', '-u '])}{start} {length}")
            content[start:end] = bytes(length)
        else:
            commands[name].append(f"discard {start} {length}")
            first, last = -(-start // BLOCK) * BLOCK, end // BLOCK * BLOCK
            if first < last:
                content[first:last] = bytes(last - first)
    document = site.run(site.act("start", "lab", "--fork", f"--nbd={tmp_path}"))
    for disk in document["disks"]:
        qemu_io(disk["location"], *commands[disk["disk"]])
    site.run(site.act("stop", "lab"))

    point = site.run(site.act("commit", "lab"))["point"]

    assert committed(site, point) == expected
    for image in site.overlay.glob("*.qcow2"):
        subprocess.run(["qemu-img", "check", "-q", image], check=True)


def test_a_commit_into_its_own_vm_continues_the_disks(site: OverlaySite) -> None:
    """A VM of images may get the commit; the small files of the point are in it, too."""
    with writing(site.repository) as repository:
        files = commit_point(repository, {"web01.vmx": b"memsize = 1"}, vm="own", kind="file")
        site.point = commit_point(
            repository,
            site.images,
            vm="own",
            change=lambda m: replace(m, disks=(*m.disks, *files.disks)),
        )
    site.create()
    with site.started():
        write_at(site.overlay / "root.raw", 2 * MIB, b"x")

    document = site.run(site.act("commit", "lab", "--as=own"))

    manifest = load(site, document["point"])
    assert manifest.vm.id == site.point.vm.id
    assert [disk.id for disk in manifest.disks] == [disk.id for disk in site.point.disks]
    content = read_point(site.repository, manifest)
    assert content["web01.vmx"] == b"memsize = 1"
    assert content["root"][2 * MIB - 1 : 2 * MIB + 2] == b"\0x\0"
