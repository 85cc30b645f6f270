"""`overlay boot` of a Linux guest, which discards and writes: a commit has zeros and its writes.

`CBTFS_EFI=1` also starts it by UEFI, from a disk with a boot loader of its own.
"""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.guest import linux_initrd, newest_kernel
from tests.make_points import MEMORY
from tests.overlay.overlay_site import BLOCK, MIB, OverlaySite, committed, on_sectors
from tests.overlay.test_boot import booted
from tests.overlay.test_start import check

pytestmark = pytest.mark.mounts

FIRMWARES: Final = ("bios", "efi") if os.environ.get("CBTFS_EFI") else ("bios",)
ARGUMENTS: Final = "console=ttyS0 quiet panic=-1"
DISCARDED: Final = MIB + 512, 4 * BLOCK
"""Offset and length in the data: whole clusters and parts of two, which keep their bytes."""
WRITTEN: Final = MIB + 8 * BLOCK + 4096
_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do [ -f /$module.ko ] && /bin/busybox insmod /$module.ko; done
/bin/busybox blkdiscard -o OFFSET -l LENGTH /dev/vda && echo DISCARDED
echo WRITTEN BY LINUX | /bin/busybox dd of=/dev/vda bs=4096 seek=BLOCK conv=sync,fsync 2>/dev/null
/bin/busybox dd if=/dev/vda bs=4096 skip=BLOCK count=1 2>/dev/null | /bin/busybox head -n 1
/bin/busybox poweroff -f
"""
_SECTIONS: Final = {".cmdline": 0x30000, ".linux": 0x2000000, ".initrd": 0x4000000}
"""Sections of a unified kernel image (systemd-stub(7)), with addresses that do not overlap."""
_STUB: Final = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"


def run(*command: object, text: str | None = None) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, input=text)


def make_initrd(path: Path, data: int) -> None:
    """Make an initramfs whose script changes the data at offset *data* of the disk."""
    values = {
        "OFFSET": data + DISCARDED[0],
        "LENGTH": DISCARDED[1],
        "BLOCK": (data + WRITTEN) // 4096,
    }
    init = _INIT
    for name, value in values.items():
        init = init.replace(name, str(value))
    linux_initrd(path, newest_kernel(), init=init)


def efi_disk(folder: Path, data: bytes, mib: int) -> bytes:
    """Return a disk with an EFI system partition, and *data* at *mib* MiB."""
    make_initrd(folder / "initrd", mib * MIB)
    (folder / "arguments").write_text(ARGUMENTS)
    contents = (folder / "arguments", f"/boot/vmlinuz-{newest_kernel()}", folder / "initrd")
    words: list[object] = []
    for (name, address), content in zip(_SECTIONS.items(), contents, strict=True):
        words += ["--add-section", f"{name}={content}", "--change-section-vma", f"{name}={address}"]
    run("objcopy", *words, _STUB, folder / "loader.efi")
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate((mib + 1) * MIB + len(data))
    table = f"label: gpt\nstart=2048, size={(mib - 2) * 2048}, type=uefi\n"
    run("sfdisk", "--quiet", disk, text=table)
    volume = f"{disk}@@{MIB}"
    run("mkfs.fat", "-F", 32, "--offset", 2048, disk, (mib - 2) << 10)
    run("mmd", "-i", volume, "::EFI", "::EFI/BOOT")
    run("mcopy", "-i", volume, folder / "loader.efi", "::EFI/BOOT/BOOTX64.EFI")
    content = bytearray(disk.read_bytes())
    content[mib * MIB : mib * MIB + len(data)] = data
    return bytes(content)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="linux-", dir=MEMORY) as path:
        yield Path(path)


@pytest.mark.parametrize("firmware", FIRMWARES)
def test_discards_of_a_guest_are_zeros_in_the_commit(
    site: OverlaySite, folder: Path, firmware: str
) -> None:
    data = site.images["root"][:MIB] * 3
    start, options = 0, [f"--firmware={firmware}", "--bus=virtio", "--memory=512M", "--"]
    disk = data
    if firmware == "efi":
        start = 64
        disk = efi_disk(folder, data, start)
    else:
        make_initrd(folder / "initrd", 0)
        options += ["-kernel", f"/boot/vmlinuz-{newest_kernel()}", "-append", ARGUMENTS]
        options += ["-initrd", str(folder / "initrd")]
    site.images = {"root": disk, "data": site.images["data"]}
    site.point = site.add()
    site.create()

    with booted(site, *options, "-no-reboot") as (child, serial):
        text = everything(serial)
        assert child.wait(60) == 0

    assert b"DISCARDED" in text
    assert b"WRITTEN BY LINUX" in text
    check(site)
    expected = bytearray(disk)
    first = -(-DISCARDED[0] // BLOCK) * BLOCK + start * MIB
    end = (DISCARDED[0] + DISCARDED[1]) // BLOCK * BLOCK + start * MIB
    expected[first:end] = bytes(end - first)
    at = start * MIB + WRITTEN
    expected[at : at + 4096] = b"WRITTEN BY LINUX\n".ljust(4096, b"\0")
    document = site.run(site.act("commit", "lab"))
    content = committed(site, document["point"])
    assert content["root"] == expected
    assert content["data"] == on_sectors(site.images["data"])


def everything(serial: Path) -> bytes:
    """Return all that the guest prints until its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(240)
        connection.connect(str(serial))
        text = b""
        while piece := connection.recv(4096):
            text += piece
        return text
