"""The commands of docs/recipes.md, as printed, on a disk with four file systems.

They run in a mount namespace with its own /srv, /mnt and /run, so they change no path of the
machine. Loop devices are detached in any case.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.guest import FILES, MIB, boot_code, linux_initrd, make_disk, newest_kernel
from tests.prove.images import make_bootable, overwrite
from tools.crash.loop import FileSystem, loop_disk
from tools.s3.servers import Server
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import make_certificate

pytestmark = pytest.mark.mounts

PAGE: Final = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
BUSY: Final[dict[FileSystem, int]] = {"ext4": 32, "xfs": 304}
"""Sizes in MiB of file systems to which a guest writes during the snapshot."""
SYNCED_FILES: Final = 20
SYNCED_WRITES: Final = 90
_PREPARE: Final = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mount -t tmpfs tmpfs /run
mount --bind {folder} /srv
mkdir -p /mnt/backup /srv/images
trap 'umount -q /mnt/ext4 /mnt/xfs /mnt/btrfs /mnt/ntfs || true
    if [ -n "${{OVERLAY-}}" ]; then
        umount -q "$OVERLAY"/*.raw || true
        kill $(cat "$OVERLAY"/*.pid) 2>/dev/null || true
    fi
    losetup --noheadings --output NAME,BACK-FILE | grep " /mnt/backup/\\| /srv/loop" |
        cut -d" " -f1 | xargs --no-run-if-empty losetup --detach
    for i in 1 2 3 4 5; do cbtfs umount /mnt/backup 2>/dev/null && break; done' EXIT
cbtfs mount -q --allow-other /mnt/backup
"""


_OWN_TMP: Final = "mount -t tmpfs tmpfs /var/tmp"
"""No other process sees the overlays. libguestfs keeps its appliance in the shared /var/tmp."""


def block(first: str) -> str:
    """Return the block of commands that has *first* in its first line."""
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    (match,) = [block for block in blocks if first in block.partition("\n")[0]]
    return match


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for /srv: the disk, and a repository with one point."""
    srv = tmp_path_factory.mktemp("recipes")
    make_disk(srv / "disk.raw")
    cbtfs(srv, "init")
    ingest(srv, "--vm=web01", "--disk=root", "disk.raw")
    return srv


def cbtfs(folder: Path, *arguments: str) -> str:
    """Run a command on the repository in *folder*; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "cbtfs", "--repo=repository", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return done.stdout


def ingest(folder: Path, *arguments: str) -> str:
    """Take a point of an image in *folder*; return its id."""
    out = cbtfs(folder, "ingest", "image", "--json", *arguments)
    return str(json.loads(out)["point"])


def run(folder: Path, *scripts: str) -> "subprocess.CompletedProcess[str]":
    """Run *scripts* with cbtfs mounted. They must succeed."""
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", _PREPARE.format(folder=folder) + "\n".join(scripts)],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CBTFS_REPO": "/srv/repository",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_block_of_the_page_is_run() -> None:
    text = Path(__file__).read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)\n", PAGE, re.M)

    used = re.findall(r'block\("(.*?)"\)', text)
    assert [line for line in blocks if not any(first in line for first in used)] == []


def test_an_ordinary_user_gets_one_file_of_a_guest(folder: Path) -> None:
    ingest(folder, "--vm=web01", "--disk=root", "--time=2025-11-18T12:00:00Z", "disk.raw")
    script = block("cbtfs files ls") + block("cbtfs files extract") + "id --user\n"
    prepare = f"set -e; mount --make-rprivate /; mount --bind {folder} /srv; mkdir -p /srv/images\n"
    user = 'exec unshare --user --map-user=1000 --map-group=1000 bash -ec "$SCRIPT"'

    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", prepare + user],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CBTFS_REPO": "/srv/repository",
            "SCRIPT": script,
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert FILES["ext4"] in done.stdout
    assert "./file\n" in done.stdout
    assert done.stdout.endswith("1000\n")
    restored = folder / "images" / "file-from-tuesday"
    assert restored.read_text() == FILES["ext4"]
    restored.unlink()


def test_a_qcow2_is_captured_through_qemu_nbd(folder: Path) -> None:
    image = "qemu-img convert -O qcow2 /srv/disk.raw /srv/images/web02.qcow2"
    compare = """
cbtfs restore web02@latest root /srv/images/web02.raw
cmp /srv/images/web02.raw /srv/disk.raw
rm /srv/images/*
"""
    run(folder, image, block("qemu-nbd --read-only"), compare)


def test_a_device_is_captured(folder: Path) -> None:
    device = """
head -c 1M /srv/disk.raw > /srv/loop.raw
DEVICE=$(losetup --find --show /srv/loop.raw)
"""
    compare = """
cbtfs restore web03@latest data - | cmp - /srv/loop.raw
losetup --detach "$DEVICE"
rm /srv/loop.raw
"""
    run(folder, device, block("cbtfs ingest image --vm web03"), compare)


def test_four_commands_make_the_same_copy(folder: Path) -> None:
    compare = """
for copy in restored dd cp piped; do cmp /srv/disk.raw /srv/images/$copy.raw; done
du --block-size=1 /srv/images/*.raw | cut -f1
rm /srv/images/*
"""
    done = run(folder, block("cbtfs restore web01@latest root /srv/images/restored"), compare)

    sizes = [int(line) for line in done.stdout.split()[-4:]]
    assert max(sizes) < (folder / "disk.raw").stat().st_size // 4


def test_other_formats_equal_the_disk(folder: Path) -> None:
    done = run(folder, block("qemu-img convert -f raw -O qcow2"), "rm /srv/images/*")

    assert done.stdout.count("Images are identical.") == 3


def test_a_vm_leaves_vmware_for_kvm(folder: Path) -> None:
    compare = "qemu-img compare -f raw -F qcow2 /srv/disk.raw /srv/images/web01.qcow2"
    leave = block("cbtfs restore web01@latest root /srv/images/web01.qcow2 --to qcow2")
    convert, boot = leave.split("\n", 1)

    done = run(folder, convert, compare, boot, "rm /srv/images/*")

    assert "Images are identical." in done.stdout
    assert "BOOTED FROM A POINT" in done.stdout


def run_without_mount(folder: Path, script: str, config: Path) -> str:
    """Run a block that needs no mount of cbtfs; return its standard output."""
    prepare = f"set -e; mount --make-rprivate /; mount --bind {folder} /srv; mkdir -p /srv/images\n"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", prepare + script],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CBTFS_REPO": "/srv/repository",
            "CBTFS_CONFIG": str(config),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_follows_its_running_vm_and_boots_after_the_shutdown(
    folder: Path, tmp_path: Path
) -> None:
    """The guest writes between all copies; its last write is the text of the boot sector."""
    disk = bytearray(boot_code("AN OLDER COPY\r\n").ljust(510, b"\0") + b"\x55\xaa")
    disk += os.urandom(8 * MIB - len(disk)) + bytes(24 * MIB)
    image, config, password = (tmp_path / name for name in ("web05.raw", "config", "password"))
    image.write_bytes(disk)
    entry = DiskEntry(file=image, label="root")
    machine = MachineEntry("web05", disks=(entry,), cbt=True)
    certificate = make_certificate(tmp_path)
    with Simulator(Inventory(machines=(machine,)), certificate=certificate) as sim:
        password.write_text(sim.user.password)
        config.write_text(
            f'[server.vc1]\naddress = "{sim.host}:{sim.port}"\nuser = "{sim.user.name}"\n'
            f'password-file = "{password}"\nca-file = "{certificate.certificate}"\n'
        )
        for file in (password, config):
            file.chmod(0o600)

        def write(offset: int, data: bytes) -> None:
            sim.do.write("web05", "root", offset, data)
            disk[offset : offset + len(data)] = data

        def copy(commands: str) -> str:
            return run_without_mount(folder, commands.replace("web01", "web05"), config)

        copy(block("# The first copy"))
        for number in range(1, 3):
            write(number * 3 * MIB + 5, os.urandom(100_000))
            out = copy(block("# A newer copy"))
            assert f"{32 * MIB} bytes" in out
            assert (folder / "images" / "web05.raw").read_bytes() == disk
        write(0, boot_code("MOVED FROM VSPHERE\r\n").ljust(200, b"\0"))
        sim.do.power("web05", "shutdown")
        out = copy(block("# The last copy"))

    assert ", incremental\n" in out
    assert ", verified, " in out
    assert "MOVED FROM VSPHERE" in out
    assert (folder / "images" / "web05.raw").read_bytes() == disk


def test_extents_are_shown_in_formats_of_other_tools(folder: Path) -> None:
    done = run(folder, block("cbtfs extents"))

    assert '"description": "hole,zero"' in done.stdout


def test_four_file_systems_are_mounted_through_overlays(folder: Path) -> None:
    compare = "cmp /srv/disk.raw /mnt/backup/web01/latest/root.raw; ls /var/tmp"
    done = run(folder, _OWN_TMP, block("OVERLAY=$(mktemp"), block("mkdir -p /mnt/ext4 /"), compare)

    assert done.stdout == "".join(FILES.values())


def test_programs_that_only_read_take_slices(folder: Path) -> None:
    done = run(folder, block("fsck.ext4"))

    assert done.stdout.endswith(FILES["ext4"])
    assert done.stdout.count(FILES["ext4"]) == 2
    assert "Volume Information" in done.stdout


def test_a_point_is_proven_and_the_one_that_broke_it_is_found(tmp_path: Path) -> None:
    """The superblock of the first partition, an ext4, is zeros since the last point."""
    disk, config = make_bootable(tmp_path / "disk.raw", None), tmp_path / "config"
    config.touch(0o600)
    cbtfs(tmp_path, "init")
    points = [ingest(tmp_path, "--vm=web01", "--disk=root", "disk.raw") for _ in range(2)]
    shown = run_without_mount(tmp_path, block("cbtfs prove web01"), config)
    overwrite(disk, MIB + 1024, bytes(1024))
    points.append(ingest(tmp_path, "--vm=web01", "--disk=root", "disk.raw"))

    out = run_without_mount(tmp_path, block("cbtfs bisect web01"), config)

    assert "proof      level 3, " in shown
    assert f"last good point:  web01@{_name(tmp_path, points[1])} " in out
    assert out.splitlines()[-1].endswith(f" data web01@{_name(tmp_path, points[2])}")


def _name(folder: Path, point: str) -> str:
    """Return the name of a point in the mount."""
    return str(json.loads(cbtfs(folder, "show", point, "--json"))["name"])


def test_a_bitmap_of_the_changes_is_served(folder: Path) -> None:
    """The second point differs in one block."""
    disk = folder / "changed.raw"
    for content in (b"1", b"2"):
        disk.write_bytes(bytes(1 << 20) + content * (1 << 16) + bytes(1 << 20))
        ingest(folder, "--vm=web04", "--disk=root", "changed.raw")

    done = run(folder, block("SINCE=since-").replace("web01", "web04"))

    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [
        ["0", "1048576", "0", "clean"],
        ["1048576", "65536", "1", "dirty"],
        ["1114112", "1048576", "0", "clean"],
    ]


# Data that a running guest had fsynced


@pytest.fixture(scope="module")
def busy(folder: Path) -> dict[str, list[str]]:
    """Take points of disks during writes to their file systems.

    Return, by VM, the last fsynced content of each file.
    """
    contents = {}
    for kind, mebibytes in BUSY.items():
        with loop_disk(folder, kind, mebibytes << 20) as disk:
            contents[f"busy-{kind}"] = write_and_sync(disk.mountpoint)
            disk.cut_power()
            # The snapshot. An unmount would write the journal to its final positions, even now.
            image = [folder / f"{kind}.img", folder / f"busy-{kind}.img"]
            subprocess.run(["cp", "--sparse=always", *image], check=True)
        ingest(folder, f"--vm=busy-{kind}", "--disk=root", f"busy-{kind}.img")
    return contents


def write_and_sync(folder: Path) -> list[str]:
    """Replace files again and again, each with fsync. Return their last contents."""
    contents = [""] * SYNCED_FILES
    for number in range(SYNCED_WRITES):
        at = number % SYNCED_FILES
        contents[at] = f"write {number}\n"
        fd = os.open(folder / f"new{at}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, contents[at].encode())
        os.fsync(fd)
        os.close(fd)
        os.replace(folder / f"new{at}", folder / f"file{at}")
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return contents


def look_at(vm: str, kind: FileSystem) -> str:
    """Return the commands of the page for a disk without partitions; they print the files."""
    overlay = block("OVERLAY=$(mktemp").replace("web01", vm).replace("/slices/", "/")
    overlay = re.sub(r"root\.p1.* root\.p4", "root", overlay)
    lines = block("mkdir -p /mnt/ext4 /").splitlines(keepends=True)
    (mount,) = [line for line in lines if line.startswith(f"mount -t {kind} ")]
    mount = re.sub(r"root\.p\d\.raw", "root.raw", mount)
    ends = "".join(lines[-3:])
    shown = f"cat $(seq --format=/mnt/{kind}/file%g 0 {SYNCED_FILES - 1})\numount /mnt/{kind}\n"
    return f"{overlay}mkdir /mnt/{kind}\n{mount}{shown}{ends}"


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_files_that_a_busy_guest_fsynced_are_shown(
    folder: Path, busy: dict[str, list[str]], kind: FileSystem
) -> None:
    vm = f"busy-{kind}"
    compare = f"cmp /srv/{vm}.img /mnt/backup/{vm}/latest/root.raw"

    done = run(folder, _OWN_TMP, look_at(vm, kind), compare)

    assert done.stdout.splitlines(keepends=True) == busy[vm]


@pytest.mark.parametrize(("kind", "skipping"), [("ext4", "noload"), ("xfs", "norecovery")])
def test_a_mount_without_the_replay_does_not_show_them(
    folder: Path, busy: dict[str, list[str]], kind: FileSystem, skipping: str
) -> None:
    """Otherwise the test above would prove nothing: the journals of these disks are dirty."""
    look = f"""
mkdir /mnt/{kind}
mount -o loop,ro,{skipping} /mnt/backup/busy-{kind}/latest/root.raw /mnt/{kind} || exit 0
cat $(seq --format=/mnt/{kind}/file%g 0 {SYNCED_FILES - 1}) || true
"""
    done = run(folder, look)

    assert done.stdout.splitlines(keepends=True) != busy[f"busy-{kind}"]


def test_libguestfs_reads_a_file_of_an_untrusted_guest(folder: Path) -> None:
    done = run(folder, block("export LIBGUESTFS_BACKEND"))

    assert done.stdout.strip() == FILES["ext4"].strip()


def test_a_point_boots_and_does_not_change(folder: Path) -> None:
    compare = "cmp /srv/disk.raw /mnt/backup/web01/latest/root.raw"
    done = run(folder, block("qemu-system-x86_64 -m 256"), compare)

    assert "BOOTED FROM A POINT" in done.stdout


def test_a_guest_runs_from_a_point_and_its_disk_becomes_a_point(folder: Path) -> None:
    look = """
ls /srv/overlays
cbtfs show web01+lab
cmp /srv/disk.raw /mnt/backup/web01/latest/root.raw
"""
    done = run(folder, block("cbtfs overlay create web01@latest lab"), look)

    assert "BOOTED FROM A POINT" in done.stdout
    assert "crash-consistent" in done.stdout


def test_an_overlay_boots_until_its_guest_restarts(folder: Path) -> None:
    done = run(folder, block("cbtfs overlay create web01@latest trial"))

    assert "UNIX-CONNECT:/run/" in done.stdout
    assert "ready\n" in done.stdout


def test_a_point_is_served_to_other_programs(folder: Path) -> None:
    ingest(folder, "--vm=web01", "--disk=root", "disk.raw")

    done = run(folder, block("mkdir -m 700 /run/web01"), "cmp /srv/disk.raw /srv/images/web01.raw")

    assert "clean" in done.stdout


def test_a_second_repository_gets_all_points_and_gives_them_back(folder: Path) -> None:
    back = "cbtfs --repo /srv/again restore web01@latest root - | cmp - /srv/disk.raw"
    done = run(folder, block("# A second repository"), block("# Back into"), back)

    assert re.search(r"^0 points copied, \d+ were there: 0 chunks moved", done.stdout, re.M)


def test_an_encrypted_repository_gives_the_disk_back(folder: Path) -> None:
    verify = "cmp /srv/disk.raw /srv/images/from-encrypted.raw"
    done = run(folder, block("# An encrypted repository"), verify)

    assert "opens the repository" in done.stderr + done.stdout
    assert "0 problems" in done.stdout


def test_a_proxy_captures_with_a_key_that_cannot_read(folder: Path) -> None:
    encrypted = "cbtfs --repo /srv/encrypted --key-file"
    if not (folder / "encrypted").exists():
        run(folder, block("# An encrypted repository"))
    refused = f"! {encrypted} /srv/proxy.key restore web01@latest root /srv/stolen"
    verify = f"{encrypted} /srv/read.key restore web01@latest root - | cmp - /srv/disk.raw"
    done = run(
        folder,
        "export CBTFS_KEY_FILE=/srv/backup.key",
        block("# A key for the proxy"),
        refused,
        verify,
    )

    assert "cannot read the content of disks" in done.stderr
    assert "packs of capture keys" not in done.stdout
    assert not (folder / "stolen").exists()


def test_an_existing_repository_becomes_encrypted(folder: Path) -> None:
    ingest(folder, "--vm=web01", "--disk=root", "disk.raw")
    verify = (
        "cbtfs --repo /srv/secret --key-file /srv/secret.key restore web01@latest root - "
        "| cmp - /srv/disk.raw"
    )
    done = run(folder, block("# A new repository, all points"), verify)

    assert re.search(r"^0 points copied, \d+ were there: 0 chunks moved", done.stdout, re.M)
    assert "0 problems" in done.stdout


def test_a_bucket_gives_the_disk_back(folder: Path, s3_server: Server) -> None:
    variables = (f"export {name}={value}\n" for name, value in s3_server.environment.items())
    listing = "echo listed && cbtfs --repo /srv/repository list --json"
    done = run(folder, "".join(variables), block("# A repository in a bucket"), listing)

    assert "created at s3://backup/vms\n" in done.stdout
    assert "0 problems" in done.stdout
    copied = re.search(r"^(\d+) points copied, 0 were there", done.stdout, re.M)
    listed = json.loads(done.stdout.partition("\nlisted\n")[2])
    assert copied is not None
    assert int(copied[1]) == len(listed["points"]) > 0


def test_a_linux_guest_writes_to_the_overlay_and_not_to_the_point(folder: Path) -> None:
    kernel = newest_kernel()
    linux_initrd(folder / "initrd", kernel)
    boot = block("qemu-system-x86_64 -m 256").rstrip()
    boot += f" -kernel /boot/vmlinuz-{kernel} -initrd /srv/initrd"
    boot += " -append 'console=ttyS0 quiet panic=-1'"
    done = run(folder, boot, "cmp /srv/disk.raw /mnt/backup/web01/latest/root.raw")

    assert FILES["ext4"].strip() in done.stdout
    assert "WRITTEN AND READ BACK" in done.stdout


def test_a_live_mount_reports_its_status(folder: Path) -> None:
    done = run(folder, block("cbtfs status"))

    assert "errors      0 reads failed" in done.stdout
    assert '"errors": 0' in done.stdout
