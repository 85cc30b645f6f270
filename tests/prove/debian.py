"""Guests of Debian on a disk with extlinux, and variants that do not work.

The small one has the kernel and the busybox of this machine, and boots within seconds. The whole
one is made by debootstrap; its variants differ in the command line of the kernel.
"""

import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from cbtfs.cli.main import main
from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import writing
from tests.guest import PVSCSI, linux_initrd, newest_kernel
from tests.make_points import commit_point, newest_point
from tests.qemu.test_hardware import config
from tests.volumes.images import loop_device

MIB: Final = 1 << 20
START: Final = MIB
"""Offset of the partition with the root file system."""
SMALL_MIB: Final = 40
WHOLE_MIB: Final = 640
UUID: Final = "0b5a1f0e-4f3a-4c57-9a5e-6c1d2e3f4a5b"
DISK: Final = "uuid:6000c29a-aaaa"
"""Identity of the disk, which is that of the configuration."""
_ROOT: Final = f"root=UUID={UUID} ro panic=0"
_SERIAL: Final = f"{_ROOT} console=tty0 console=ttyS0"
VARIANTS: Final = {
    "debian": _SERIAL,
    "script": f"{_SERIAL} systemd.mask=qemu-guest-agent.service",
    "settled": f"{_ROOT} console=tty0 systemd.mask=qemu-guest-agent.service",
    "emergency": f"root=UUID={UUID[::-1]} rootdelay=1 ro panic=0 console=ttyS0",
    "panic": f"{_SERIAL} init=/bin/true",
    "stuck": f"{_SERIAL} init=/usr/local/sbin/hang",
}
"""Command lines of the kernel; except for the first, the name is the verdict."""
_PACKAGES: Final = (
    *("systemd-sysv", "udev", "kmod", "login", "e2fsprogs", "initramfs-tools"),
    *("linux-image-cloud-amd64", "qemu-guest-agent"),
)
_MBR: Final = Path("/usr/lib/syslinux/mbr/mbr.bin")
_CONFIGURATION: Final = (
    "DEFAULT linux\nLABEL linux\nLINUX {kernel}\nINITRD {initrd}\nAPPEND {line}\n"
)
_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do [ -f /$module.ko ] && /bin/busybox insmod /$module.ko; done
until [ -b /dev/sda1 ]; do :; done
/bin/busybox mount -t ext4 -o ro /dev/sda1 /mnt
exec /bin/busybox switch_root /mnt /bin/init
"""
_INITTAB: Final = """\
::sysinit:/bin/busybox mount -t devtmpfs dev /dev
::sysinit:/bin/busybox hostname web01
ttyS0::respawn:/bin/busybox getty -L 115200 ttyS0
"""


def run(*command: object, text: str | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, input=text
    )
    return done.stdout


def make_small(path: Path) -> Path:
    """Make a disk with a small guest, which shows a login prompt on its serial port."""
    with tempfile.TemporaryDirectory() as name:
        root, release = Path(name), newest_kernel()
        for folder in ("bin", "boot", "dev", "etc"):
            (root / folder).mkdir()
        shutil.copy(f"/boot/vmlinuz-{release}", root / "boot")
        linux_initrd(root / "boot" / f"initrd.img-{release}", release, PVSCSI, _INIT)
        shutil.copy("/bin/busybox", root / "bin" / "busybox")
        (root / "bin" / "init").symlink_to("busybox")
        (root / "etc" / "inittab").write_text(_INITTAB)
        return make_disk(root, path, SMALL_MIB, f"{_SERIAL} quiet")


def make_root(folder: Path) -> Path:
    """Make the root directory of a Debian, with a user root without a password."""
    root = folder / "root"
    packages = f"--include={','.join(_PACKAGES)}"
    run("debootstrap", "--variant=minbase", packages, "bookworm", root)
    set_up(root)
    return root


def set_up(root: Path) -> None:
    """Give a Debian a name, a password-less root, its `fstab`, and a program that hangs."""
    (root / "etc" / "hostname").write_text("web01\n")
    (root / "etc" / "fstab").write_text(f"UUID={UUID} / ext4 defaults 0 1\n")
    shadow = root / "etc" / "shadow"
    shadow.write_text(shadow.read_text().replace("root:*:", "root::", 1))
    hang = root / "usr" / "local" / "sbin" / "hang"
    hang.write_text("#!/bin/sh\necho This guest hangs.\nexec sleep infinity\n")
    hang.chmod(0o755)


def make_disk(root: Path, path: Path, mib: int, line: str) -> Path:
    """Make a disk with a partition, the files of *root* on an ext4, and extlinux."""
    with path.open("wb") as file:
        file.truncate((mib + 2) * MIB)
    table = f"label: dos\nstart={START // 512}, size={mib * 2048}, bootable\n"
    run("sfdisk", "--quiet", path, text=table)
    with path.open("r+b") as file:
        file.write(_MBR.read_bytes())
    with tempfile.TemporaryDirectory() as name:
        part, mounted = Path(name, "part"), Path(name, "mounted")
        mounted.mkdir()
        with part.open("wb") as file:
            file.truncate(mib * MIB)
        run("mkfs.ext4", "-q", "-b", "4096", "-O", "^64bit", "-U", UUID, "-d", root, part)
        with loop_device(part) as device:
            run("mount", device, mounted)
            try:
                _install(mounted, line)
            finally:
                run("umount", mounted)
        run("dd", f"if={part}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    return path


def _install(root: Path, line: str) -> None:
    folder = root / "boot" / "extlinux"
    folder.mkdir()
    (folder / "extlinux.conf").write_text(configuration(root, line))
    run("extlinux", "--install", folder)


def configuration(root: Path, line: str) -> str:
    """Return the configuration of extlinux."""
    kernel = max((root / "boot").glob("vmlinuz-*")).name
    initrd = kernel.replace("vmlinuz", "initrd.img")
    return _CONFIGURATION.format(kernel=f"/boot/{kernel}", initrd=f"/boot/{initrd}", line=line)


def make_variants(root: Path, folder: Path) -> dict[str, Path]:
    """Make the disks of all variants in *folder*, by name."""
    first = make_disk(root, folder / "debian", WHOLE_MIB, VARIANTS["debian"])
    disks = {"debian": first}
    for name, line in VARIANTS.items():
        if name != "debian":
            disks[name] = folder / name
            run("cp", "--sparse=always", first, disks[name])
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(configuration(root, line))
                file.flush()
                change = f"cd /boot/extlinux\nrm extlinux.conf\nwrite {file.name} extlinux.conf\n"
                run("debugfs", "-w", "-f", "-", f"{disks[name]}?offset={START}", text=change)
    return disks


def add_guest(repository: Path, vm: str, disk: Path) -> Manifest:
    """Ingest a disk as that of a VM with a paravirtual SCSI controller; return the point."""
    arguments = ["ingest", "image", f"--vm={vm}", "--disk=root", str(disk), "-q"]
    assert main([f"--repo={repository}", *arguments]) == 0
    with writing(repository) as opened:
        taken = newest_point(opened, vm)
        assert taken is not None

        def with_disk(manifest: Manifest) -> Manifest:
            (record,) = taken.disks
            (file,) = manifest.disks
            disks = (replace(record, identity=DISK), replace(file, identity="file:config"))
            return replace(manifest, disks=disks)

        return commit_point(opened, {"config.json": config()}, vm=vm, kind="file", change=with_disk)
