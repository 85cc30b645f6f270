"""`overlay boot`: the guest runs from the point, and its writes stay in the overlay."""

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import MountFailed
from cbtfs.overlay.boot import BootedGuest, BootOptions, boot_overlay
from cbtfs.overlay.folder import overlay_folder
from cbtfs.qemu import programs
from cbtfs.qemu.accelerator import has_kvm
from cbtfs.store.repository import reading, writing
from tests.make_points import SIGNALS, commit_point, read_point
from tests.overlay.overlay_site import BLOCK, MIB, OverlaySite, committed, on_sectors
from tests.overlay.test_start import check, children_of, fill, processes_below
from tests.qemu.boot_sector import GREETING, WRITTEN, boot_sector
from tests.qemu.test_hardware import config

pytestmark = pytest.mark.mounts

KEY: Final = b"x" * 16


@pytest.fixture
def guest(site: OverlaySite) -> OverlaySite:
    """Return a site whose point is a VM of vSphere with a disk that boots."""
    site.images = {"root": boot_sector() + bytes(MIB), "data": site.images["data"]}

    def as_ingested(manifest: Manifest) -> Manifest:
        root, data = manifest.disks
        disks = (replace(root, identity="uuid:6000c29a-aaaa"), replace(data, identity="key:2017"))
        return replace(manifest, disks=(*disks, *files.disks))

    with writing(site.repository) as repository:
        files = commit_point(repository, {"config.json": config()}, vm="web01", kind="file")
        (file,) = files.disks
        files = replace(files, disks=(replace(file, identity="file:config"),))
        site.point = commit_point(repository, site.images, vm="web01", change=as_ingested)
    site.create()
    return site


@contextmanager
def booted(site: OverlaySite, *options: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Boot the overlay; give the process and the socket of the serial port."""
    command = site.act("boot", "lab", "--accel=tcg", *options)
    with subprocess.Popen(
        [*SIGNALS, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            lines = []
            for line in child.stdout:
                if line == "ready\n":
                    break
                lines.append(line.strip())
            else:
                raise AssertionError(child.stderr.read())
            yield child, Path(lines[0].rpartition("UNIX-CONNECT:")[2])
        finally:
            child.kill()


def converse(serial: Path) -> bytes:
    """Press a key on the serial port; return everything that the guest prints until its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(serial))
        connection.sendall(KEY)
        text = b""
        with suppress(ConnectionResetError):  # The guest reads one key of all.
            while piece := connection.recv(4096):
                text += piece
        return text


def test_a_guest_boots_from_a_point_and_its_writes_stay_in_the_overlay(guest: OverlaySite) -> None:
    with booted(guest) as (child, serial):
        guest.run(guest.act("boot", "lab"), code=11)
        guest.run(guest.act("start", "lab"), code=11)
        text = converse(serial)
        assert child.wait(60) == 0
        assert not serial.parent.exists()

    assert text.endswith(GREETING + WRITTEN)
    check(guest)
    document = guest.run(guest.act("commit", "lab"))
    with reading(guest.repository) as repository:
        committed = repository.points.read_manifest(PointId(document["point"]))
    sector = boot_sector()
    assert read_point(guest.repository, committed)["root"] == sector + sector + bytes(MIB - 512)
    assert read_point(guest.repository, guest.point)["root"] == guest.images["root"]


def test_a_guest_boots_from_disks_with_one_limit(guest: OverlaySite) -> None:
    """Each device lets the other one write to the image that both have."""
    guest.discard()
    guest.create("--limit=2M")
    for bus in ("ide", "nvme"):
        with booted(guest, f"--bus={bus}") as (child, serial):
            assert converse(serial).endswith(GREETING + WRITTEN)
            assert child.wait(60) == 0

    check(guest)
    content = committed(guest, guest.run(guest.act("commit", "lab"))["point"])
    assert content["root"] == boot_sector() * 2 + bytes(MIB - 512)
    assert content["data"] == on_sectors(guest.images["data"])


def test_a_guest_that_meets_the_limit_gets_an_error(guest: OverlaySite) -> None:
    """It runs on: by default, QEMU would stop it at a write without space."""
    guest.discard()
    guest.images["root"] = boot_sector() + bytes(4 * MIB)
    guest.point = guest.add("other")
    guest.create("--limit=2M")
    expected, offset = bytearray(guest.images["root"]), BLOCK
    with guest.started():
        while not fill(guest.overlay / "root.raw", expected, offset):
            offset += BLOCK

    with booted(guest, "--bus=ide", "--memory=64M") as (child, serial):
        assert converse(serial).endswith(GREETING)
        assert child.wait(60) == 0

    check(guest)
    content = committed(guest, guest.run(guest.act("commit", "lab"))["point"])
    assert content["root"] == on_sectors(bytes(expected))


def test_the_document_names_the_hardware_and_the_sockets(guest: OverlaySite) -> None:
    command = guest.act("boot", "lab", "--accel=tcg", "--memory=64M", "--json", "--", "-S")
    with subprocess.Popen([*SIGNALS, *command], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        document = json.loads(child.stdout.readline())
        with socket.socket(socket.AF_UNIX) as screen:
            screen.connect(document["vnc"])
            assert screen.recv(4) == b"RFB "
        assert guest.run(guest.act("stop", "lab"))["was_running"]
        assert child.wait(60) == 0

    guest.tables.compare("overlay boot", document)
    assert document["disks"] == [
        {"disk": "root", "bus": "pvscsi"},
        {"disk": "data", "bus": "sas"},
    ]
    assert (document["firmware"], document["memory_mib"], document["network"]) == ("bios", 64, None)
    assert Path(document["serial"]).parent == Path(document["vnc"]).parent


def test_a_killed_boot_leaves_nothing_running(guest: OverlaySite) -> None:
    with booted(guest, "--", "-S") as (child, serial):
        watched = [os.pidfd_open(pid) for pid in children_of(child.pid).values()]
        child.send_signal(signal.SIGKILL)
        for process in watched:
            assert select.select([process], [], [], 60)[0]
            os.close(process)

    guest.run(guest.act("stop", "lab"))
    assert not serial.parent.exists()


@pytest.mark.parametrize("victim", ["guest", "mount"])
def test_a_boot_ends_with_its_guest_and_its_mount(guest: OverlaySite, victim: str) -> None:
    sockets: list[Path] = []
    before = processes_below(os.getpid())  # other tests may share a mount for the session

    def kill(booted: BootedGuest) -> None:
        sockets.append(booted.serial)
        os.kill(children_of(os.getpid(), before)[victim], signal.SIGKILL)

    folder = overlay_folder(guest.directory, "lab")
    with pytest.raises(MountFailed, match="ended"):
        boot_overlay(guest.repository, folder, BootOptions("tcg", more=["-S"]), kill)

    assert not sockets[0].parent.exists()
    assert children_of(os.getpid(), before).keys() == set()


def test_wrong_options_and_missing_programs_are_one_line(
    guest: OverlaySite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = ("--accel=xen", "--bus=floppy", "--firmware=coreboot", "--memory=1K")
    messages = [refusal(guest, option) for option in wrong]
    monkeypatch.setattr(programs, "_FIRMWARE", ())
    missing_firmware = refusal(guest, "--firmware=efi")
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = refusal(guest)

    for option, message in zip(wrong, messages, strict=True):
        assert option.partition("=")[0] in message
    assert "install the package qemu-system-x86" in missing
    assert "install the package ovmf" in missing_firmware
    assert not [m for m in (*messages, missing, missing_firmware) if "\n" in m]


def refusal(site: OverlaySite, *options: str) -> str:
    """Return the message of a boot that fails with exit code 2."""
    message: str = site.run(site.act("boot", "lab", *options), code=2)["error"]["message"]
    return message


def test_kvm_is_used_only_where_a_guest_executes(guest: OverlaySite) -> None:
    if not has_kvm():
        assert "KVM does not work" in refusal(guest, "--accel=kvm")
