"""`overlay start` and `stop`: the disks of a point, writable; faults below, kills, limits."""

import errno
import os
import signal
import struct
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.overlay import decode_overlay, encode_overlay
from cbtfs.mount.mounts import mounts
from cbtfs.qemu.images import written_extents
from tests.overlay.overlay_site import BLOCK, MIB, OverlaySite, committed, on_sectors, write_at
from tests.restore.test_several_disks import damage

pytestmark = pytest.mark.mounts

OVERLAYS: Final = int(os.environ.get("CBTFS_OVERLAYS", "2"))
"""Number of overlays that share a mount."""


def mounted_overlays() -> list[str]:
    return [mount.path for mount in mounts() if "cbtfs-overlay-" in mount.path]


def check(site: OverlaySite) -> None:
    """Assert that the images of the overlay are intact."""
    for image in site.overlay.glob("*.qcow2"):
        subprocess.run(["qemu-img", "check", "-q", image], check=True)


def test_writes_stay_in_the_overlay(site: OverlaySite) -> None:
    site.create()
    raw = site.overlay / "root.raw"
    expected = bytearray(site.images["root"])
    expected[100:105] = b"first"
    seen: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            if raw.exists():
                seen.append(raw.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with site.started():
        is_over.set()
        watcher.join()
        assert raw.read_bytes() == site.images["root"]
        assert (site.overlay / "data.raw").read_bytes() == on_sectors(site.images["data"])
        write_at(raw, 100, b"first")
        site.run(site.act("start", "lab"), code=11)
        site.run(site.act("discard", "lab"), code=11)
        site.run(site.act("commit", "lab"), code=11)
        listed = site.run(site.command("overlay", "list"))["overlays"]
        assert [item["state"] for item in listed] == ["running"]

    assert set(seen) <= {len(expected)}  # the file never had another size
    assert not raw.is_symlink()
    assert mounted_overlays() == []
    with site.started():
        assert raw.read_bytes() == expected
    check(site)
    extents = site.run(site.command("overlay", "list"))["overlays"][0]
    assert extents["stored_bytes"] >= BLOCK


def test_a_write_of_a_page_copies_nothing_from_the_point(site: OverlaySite) -> None:
    """An image of an earlier version, without subclusters, is served as well."""
    site.create()
    for form, written in (("extended_l2=on", 4096), ("extended_l2=off", BLOCK)):
        image, size = site.overlay / "root.qcow2", str(len(site.images["root"]))
        if form.endswith("off"):
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", form, str(image), size]
            subprocess.run(command, check=True)
        with site.started():
            write_at(site.overlay / "root.raw", BLOCK + 8192, b"x" * 4096)

        assert sum(extent.length for extent in written_extents(image)) == written


def test_a_hole_that_is_punched_reads_as_zeros_or_is_refused(site: OverlaySite) -> None:
    """The loop driver zeroes ranges by punching holes; a part of a cluster must not keep bytes."""
    site.create()
    raw, start, length = site.overlay / "root.raw", BLOCK + 512, 2 * BLOCK + 1024
    with site.started():
        punched = subprocess.run(
            ["fallocate", "--punch-hole", f"--offset={start}", f"--length={length}", raw],
            check=False,
            capture_output=True,
        )
        content = raw.read_bytes()
        loop = subprocess.run(
            ["losetup", "--find", "--show", raw], check=True, capture_output=True, text=True
        ).stdout.strip()
        try:
            part = [f"--offset={start}", f"--length={length}", "--zeroout", loop]
            subprocess.run(["blkdiscard", "--force", *part], check=True)
            stopped = site.run(site.act("stop", "lab"), code=40)
            assert loop in stopped["error"]["message"]
        finally:
            subprocess.run(["losetup", "--detach", loop], check=True)
        zeroed = raw.read_bytes()

    expected = bytearray(site.images["root"])
    if punched.returncode:
        assert content == expected
    expected[start : start + length] = bytes(length)
    assert zeroed == expected
    check(site)


def fill(raw: Path, expected: bytearray, offset: int) -> bool:
    """Write a block; return whether it failed for want of space, and record it otherwise."""
    error = None
    try:
        write_at(raw, offset, b"x" * BLOCK)
    except OSError as exc:
        error = exc.errno
    if error is None:
        expected[offset : offset + BLOCK] = b"x" * BLOCK
    assert error in (None, errno.ENOSPC)
    return error is not None


def test_all_disks_of_an_overlay_have_one_limit(site: OverlaySite) -> None:
    """The first disk gets the space that the second one does not use, and nobody gets more.

    A disk that looks like an image itself is raw nevertheless.
    """
    header = struct.pack(">4sIQI", b"QFI\xfb", 3, 1024, 11) + bytes(1004) + b"/etc/passwd"
    site.images["data"] = header + site.images["data"][len(header) :]
    site.point = site.add()
    limit = 2 * MIB
    site.create(f"--limit={limit}")
    root, data = site.overlay / "root.raw", site.overlay / "data.raw"
    expected, other = bytearray(site.images["root"]), bytearray(on_sectors(site.images["data"]))
    with site.started():
        assert data.read_bytes() == other
        assert not fill(data, other, BLOCK)
        filled = 0
        while not fill(root, expected, filled):
            filled += BLOCK
        assert fill(data, other, 2 * BLOCK)
        assert root.read_bytes() == expected
        assert data.read_bytes() == other

    assert MIB < filled < limit
    assert (site.overlay / "disks.qcow2").stat().st_size == limit
    check(site)
    stored = site.run(site.command("overlay", "list"))["overlays"][0]["stored_bytes"]
    assert filled < stored <= limit
    with site.started():
        assert root.read_bytes() == expected
    document = site.run(site.act("commit", "lab"))
    assert [disk["read_bytes"] for disk in document["disks"]] == [filled, BLOCK + 1024]
    content = committed(site, document["point"])
    assert content == {"root": expected, "data": other}


def test_an_overlay_of_an_earlier_version_limits_each_disk(site: OverlaySite) -> None:
    site.create()
    limit, record = 2 * MIB, site.overlay / "overlay.json"
    record.write_bytes(encode_overlay(replace(decode_overlay(record.read_bytes()), limit=limit)))
    for image in site.overlay.glob("*.qcow2"):
        os.truncate(image, limit)
    expected, offset = bytearray(site.images["root"]), 0
    with site.started():
        while not fill(site.overlay / "root.raw", expected, offset):
            offset += BLOCK
        write_at(site.overlay / "data.raw", BLOCK, b"x" * BLOCK)
        assert (site.overlay / "root.raw").read_bytes() == expected

    assert MIB < offset < limit
    check(site)


def test_a_damaged_chunk_is_an_error_of_its_bytes_only(site: OverlaySite) -> None:
    site.create()
    raw = site.overlay / "root.raw"
    with site.started():
        damage(site.repository, site.images["root"][3 * MIB : 3 * MIB + BLOCK])
        fd = os.open(raw, os.O_RDONLY)
        try:
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(fd, 4096, 3 * MIB)
            assert os.pread(fd, MIB, 0) == site.images["root"][:MIB]
            end = 3 * MIB + BLOCK
            assert os.pread(fd, MIB, end) == site.images["root"][end:]
        finally:
            os.close(fd)


def test_a_damaged_point_fails_before_a_daemon_starts(site: OverlaySite) -> None:
    site.create()
    record = site.overlay / "overlay.json"
    overlay = decode_overlay(record.read_bytes())
    other = replace(overlay.disks[0], size=512)
    record.write_bytes(encode_overlay(replace(overlay, disks=(other, *overlay.disks[1:]))))
    assert "daemon" not in site.run(site.act("start", "lab"), code=33)["error"]["message"]
    record.write_bytes(encode_overlay(overlay))
    for pack in site.repository.glob("packs/*/*"):
        if len(pack.name) == 32:
            os.truncate(pack, 100)

    site.run(site.act("start", "lab", "--fork"), code=20)

    assert mounted_overlays() == []


@pytest.mark.parametrize(
    ("options", "victims"),
    [((), ("daemon", "mount")), (("--limit=8M",), ("daemon", "front daemon"))],
)
def test_a_start_ends_with_its_daemons_and_its_mount(
    site: OverlaySite, options: tuple[str, ...], victims: tuple[str, ...]
) -> None:
    site.create(*options)
    raw = site.overlay / "root.raw"
    expected = bytearray(site.images["root"])
    for number, victim in enumerate(victims):
        with site.started() as child:
            write_at(raw, number * 4096 + 7, b"flushed")
            expected[number * 4096 + 7 : number * 4096 + 14] = b"flushed"
            os.kill(children_of(child.pid)[victim], signal.SIGKILL)
            assert child.wait(60) == 40
        assert not raw.is_symlink()

    with site.started():
        assert raw.read_bytes() == expected
    check(site)
    assert mounted_overlays() == []


def processes_below(process: int) -> frozenset[str]:
    """Return the children of a process."""
    return frozenset(Path(f"/proc/{process}/task/{process}/children").read_text().split())


def children_of(process: int, others: frozenset[str] = frozenset()) -> dict[str, int]:
    """Return the children of a command without *others*: the mount, the daemon or the guest."""
    found = {}
    for pid in processes_below(process) - others:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        kinds = {b"--pidfile": "daemon", b"chardev=cbtfs-qmp,mode=control": "guest"}
        name = next((kind for word, kind in kinds.items() if word in words), "mount")
        if b'"driver": "nbd"' in words:
            name = "front daemon"
        found[name] = int(pid)
    return found


def test_nbd_serves_all_disks_on_one_socket(site: OverlaySite, tmp_path: Path) -> None:
    site.create()
    folder = tmp_path / "nbd"
    folder.mkdir()

    document = site.run(site.act("start", "lab", "--fork", "--nbd=nbd"), folder=tmp_path)

    uris = {item["disk"]: item["location"] for item in document["disks"]}
    assert uris["root"] == f"nbd+unix:///root?socket={folder}/lab.sock"
    write = ["qemu-io", "-f", "raw", "-c", "write -P 7 65536 512", "-c", "flush", uris["root"]]
    subprocess.run(write, check=True, capture_output=True)
    assert site.run(site.act("stop", "lab")) == {"overlay": "lab", "was_running": True}
    assert os.listdir(folder) == []
    with site.started():
        assert (site.overlay / "root.raw").read_bytes()[65536 : 65536 + 512] == b"\7" * 512


def test_many_overlays_share_a_mount_and_its_cache(site: OverlaySite, tmp_path: Path) -> None:
    """Chunks that one overlay has read are not cached a second time for the next one."""
    mountpoint, names = tmp_path / "mnt", [f"lab{number}" for number in range(OVERLAYS)]
    mountpoint.mkdir()
    site.images["root"] = b"".join(b"%7d\n" % number for number in range(4 * MIB // 8))
    site.point = site.add()
    mount = ["mount", str(mountpoint), f"--log-file={tmp_path}/log", "--workers=1"]
    site.run(site.command(*mount))
    cached = []
    try:
        inside = ["overlay", "create", site.point.point, "x", f"--dir={mountpoint}/x"]
        site.run(site.command(*inside), code=2)
        for name in names:
            site.run(site.act("create", site.point.point, name))
            site.run(site.act("start", name, "--fork", f"--mount={mountpoint}"))
            raw = site.directory / name / "root.raw"
            assert raw.read_bytes() == site.images["root"]
            write_at(raw, 0, name.encode())
            status = site.run(site.command("status", str(mountpoint)))
            cached.append(sum(worker["cached_bytes"] for worker in status["workers"]))
        site.run(site.act("stop", names[0]))
        site.run(site.act("start", names[0], f"--mount={tmp_path}"), code=40)
        site.run(site.act("start", names[0], "--fork", f"--mount={mountpoint}"))
        for name in names:
            with (site.directory / name / "root.raw").open("rb") as file:
                assert file.read(len(name)) == name.encode()
    finally:
        for name in names:
            site.run(site.act("stop", name))
        site.run(site.command("umount", str(mountpoint)))

    assert cached[0] >= 2 * MIB
    assert set(cached) == {cached[0]}


def test_an_existing_file_is_not_replaced(site: OverlaySite, tmp_path: Path) -> None:
    site.create()
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "root.raw").write_bytes(b"mine")

    site.run(site.act("start", "lab", f"--raw={folder}"), code=2)
    site.run(site.act("start", "lab", f"--raw={site.repository}"), code=2)

    assert (folder / "root.raw").read_bytes() == b"mine"
    assert os.listdir(folder) == ["root.raw"]
