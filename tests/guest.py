"""Guests for tests: a disk with four file systems that boots, and a small Linux."""

import gzip
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
PARTITIONS: Final = {"ext4": 16, "xfs": 304, "btrfs": 112, "ntfs": 8}
"""Size of a partition in MiB: the minimum of XFS and btrfs."""
FILES: Final = {name: f"a file on {name}\n" for name in PARTITIONS}
"""Content of `file` in each file system."""
_MODULES: Final = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "lib/crc16",
    "crypto/crc32c_generic",
    "lib/libcrc32c",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
)
PVSCSI: Final = (
    *("drivers/scsi/scsi_common", "drivers/scsi/scsi_mod", "drivers/scsi/sd_mod"),
    *("lib/crc-t10dif", "crypto/crct10dif_common", "drivers/scsi/vmw_pvscsi"),
    *_MODULES[-6:],
)
"""Modules for ext4 on a disk of VMware's paravirtual SCSI controller."""
_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do [ -f /$module.ko ] && /bin/busybox insmod /$module.ko; done
/bin/busybox mount -t ext4 -o ro,noload /dev/vda1 /mnt
/bin/busybox cat /mnt/file
/bin/busybox umount /mnt
[ -b /dev/vda1 ] || exec /bin/busybox poweroff -f
echo WRITTEN AND READ BACK | /bin/busybox dd of=/dev/vda1 bs=512 seek=20 conv=sync,fsync 2>/dev/null
/bin/busybox dd if=/dev/vda1 bs=512 skip=20 count=1 2>/dev/null | /bin/busybox head -n 1
/bin/busybox poweroff -f
"""


def _run(*command: object, cwd: Path | None = None, text: str | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, input=text, cwd=cwd
    )
    return done.stdout


def make_disk(path: Path) -> None:
    """Make a disk with a partition of each kind; its boot sector writes to the serial port."""
    table, start = ["label: gpt"], 2048
    for size in PARTITIONS.values():
        table.append(f"start={start}, size={size * 2048}")
        start += size * 2048
    with path.open("wb") as file:
        file.truncate((start + 2048) * 512)
    _run("sfdisk", "--quiet", path, text="\n".join(table) + "\n")
    at = MIB
    with tempfile.TemporaryDirectory() as folder:
        for name, size in PARTITIONS.items():
            part = Path(folder) / f"{name}.img"
            with part.open("wb") as file:
                file.truncate(size * MIB)
            _make(name, part, Path(folder))
            _run(
                *("dd", f"if={part}", f"of={path}", "bs=1M", f"seek={at // MIB}"),
                *("conv=notrunc,sparse", "status=none"),
            )
            at += size * MIB
    with path.open("r+b") as file:
        file.write(boot_code("BOOTED FROM A POINT\r\n"))


def _make(name: str, part: Path, folder: Path) -> None:
    content = folder / name
    content.mkdir()
    (content / "file").write_text(FILES[name])
    if name == "ext4":
        _run("mkfs.ext4", "-q", "-d", content, part)
    elif name == "xfs":
        prototype = folder / "prototype"
        prototype.write_text(f"/\n0 0\nd--755 0 0\nfile ---644 0 0 {content / 'file'}\n$\n")
        _run("mkfs.xfs", "-q", "-p", prototype, part)
    elif name == "btrfs":
        _run("mkfs.btrfs", "--quiet", "--rootdir", content, part)
    else:
        _run("mkfs.ntfs", "--force", "--fast", "--quiet", part)
        _run("ntfscp", "--force", part, content / "file", "file")


def boot_code(text: str, *, stays: bool = False) -> bytes:
    """Return machine code of a boot sector that writes *text* to the serial port.

    Then it resets the machine, or halts if it *stays*.
    """
    head = bytes.fromhex(
        "fa31c08ed8be"  # cli; xor ax, ax; mov ds, ax; mov si, ...
    )
    body = bytes.fromhex(
        "bafd03"  # again: mov dx, 0x3fd: the line's status
        "eca82074fb"  # wait: in al, dx; test al, 0x20; jz wait
        "baf803"  # mov dx, 0x3f8
        "ac84c07403"  # lodsb; test al, al; jz end
        "eeebed" + ("f4ebfd9090ff" if stays else "b0fee664ebfe")  # out dx, al; jmp again
        # end: hlt; jmp end; or a reset by the keyboard controller
    )
    address = 0x7C00 + len(head) + 2 + len(body)
    return head + address.to_bytes(2, "little") + body + text.encode() + b"\0"


def screen_code(text: str) -> bytes:
    """Return machine code of a boot sector that writes *text* to the screen and halts."""
    head = bytes.fromhex("31c08ed8be")  # xor ax, ax; mov ds, ax; mov si, ...
    body = bytes.fromhex(
        "fc"  # cld
        "ac84c07409"  # again: lodsb; test al, al; jz end
        "b40ebb0700cd10"  # mov ah, 0x0e; mov bx, 7; int 0x10: teletype
        "ebf2"  # jmp again
        "f4ebfd"  # end: hlt; jmp end
    )
    address = 0x7C00 + len(head) + 2 + len(body)
    return head + address.to_bytes(2, "little") + body + text.encode() + b"\0"


def newest_kernel() -> str:
    """Return the release of the newest installed Debian kernel."""
    return max(path.name for path in Path("/lib/modules").iterdir() if (path / "kernel").exists())


def linux_initrd(
    path: Path, release: str, modules: Sequence[str] = _MODULES, init: str = _INIT
) -> None:
    """Make an initramfs with busybox, modules, by default for ext4 on virtio, and a script."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("bin", "dev", "mnt"):
            (root / folder).mkdir()
        (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
        names = [module.rpartition("/")[2] for module in modules]
        for module in modules:
            source = Path("/lib/modules", release, "kernel", f"{module}.ko")
            if source.exists():
                (root / source.name).write_bytes(source.read_bytes())
        (root / "init").write_text(init.replace("MODULES", " ".join(names)))
        for program in (root / "init", root / "bin" / "busybox"):
            program.chmod(0o755)
        listed = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
        archive = subprocess.run(
            ["cpio", "--quiet", "--format=newc", "--create"],
            cwd=root,
            input=listed.encode(),
            check=True,
            capture_output=True,
        )
        path.write_bytes(gzip.compress(archive.stdout, 1))
