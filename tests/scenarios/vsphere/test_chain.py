"""End to end: a real guest file system, twelve points, every byte of each compared."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.vsphere import nbdkit
from tests.scenarios.vsphere.site import FIRST, MIB, TRANSPORTS, VM, Lab, kinds, new_lab, one_vm
from tools.vsim import DiskEntry, Simulator
from tools.vsim.soap.certificate import Certificate

pytestmark = pytest.mark.mounts

POINTS = 12
ADDED, GROWN = 4, 7
"""Numbers of the points before which a disk is added, and before which one grows."""


def live(lab: Lab, key: int) -> str:
    """Return the raw file of the guest's disk."""
    disks = lab.sim.do.vms()[0]["disks"]
    return str(next(disk["file"] for disk in disks if disk["key"] == key))


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def mounted(image: str, at: Path) -> Iterator[Path]:
    """Mount the guest's file system; unmounting flushes it."""
    at.mkdir(exist_ok=True)
    run("mount", "-o", "loop", image, str(at))
    try:
        yield at
    finally:
        run("umount", str(at))


def work(root: Path, day: int) -> None:
    """Change the file system like a guest in a day: add, grow, rewrite, delete, trim."""
    (root / f"day-{day}").write_bytes(bytes((day * i) % 251 for i in range(50_000)))
    with (root / "log").open("ab") as file:
        file.write(f"day {day}\n".encode() * 500)
    if day > 2:
        (root / f"day-{day - 2}").unlink(missing_ok=True)
    if day % 3 == 0:
        run("fstrim", str(root))


@pytest.mark.parametrize("transport", ["datastore", "nbd", "nbdkit", "nfc", "vddk"])
def test_twelve_points_of_a_working_guest(
    tmp_path: Path, certificate: Certificate, transport: str
) -> None:
    disks = (DiskEntry(size=8 * MIB), DiskEntry(size=MIB, mode="independent_persistent"))
    with Simulator(one_vm(*disks), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        makers: dict[str, Any] = {**TRANSPORTS, "nbdkit": nbdkit.by_nbdkit(tmp_path)}
        lab.make_transport = makers[transport]
        root, data = tmp_path / "root", tmp_path / "data"
        run("mkfs.ext4", "-q", live(lab, FIRST))
        added = 0
        for day in range(1, POINTS + 1):
            if day == ADDED:
                added = sim.do.add_disk(VM, {"size": "8M"})
                run("mkfs.ext4", "-q", live(lab, added))
            if day == GROWN:
                sim.do.grow_disk(VM, FIRST, "12M")
                run("resize2fs", "-f", live(lab, FIRST))
            with mounted(live(lab, FIRST), root):
                work(root, day)
            if added:
                with mounted(live(lab, added), data):
                    work(data, day)
            outcome = lab.ingest()
            assert [disk.key for disk in outcome.left_out] == [2001]

        lab.assert_all_true()
        lab.assert_clean()
        first = [kinds(manifest)[0] for manifest in lab.points]
        later = [kinds(manifest)[1] for manifest in lab.points[ADDED - 1 :]]
        changed = ["full"] + ["incremental"] * (POINTS - 1)
        changed[GROWN - 1] = "full"
        assert first == changed
        assert later == ["full"] + ["incremental"] * (POINTS - ADDED)
