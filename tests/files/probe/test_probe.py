"""Contents of volumes, compared with blkid and the tools of each file system."""

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbtfs.files.probe.find import probe
from cbtfs.files.probe.values import Kind, Probe, State
from tests.files.jbd2.busy import SHAPES, copied, run
from tests.files.jbd2.busy import mounted as mounted_ext
from tests.volumes.images import MIB, Memory, file_of, loop_device

TYPES = {Kind.LUKS: "crypto_LUKS", Kind.MD: "linux_raid_member", Kind.LVM: "LVM2_member"}
TYPES |= {Kind.FAT12: "vfat", Kind.FAT16: "vfat", Kind.FAT32: "vfat", Kind.BITLOCKER: "BitLocker"}
XFS_CYCLES = int(os.environ.get("CBTFS_XFS_LOGS", "3"))
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def new(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    return path


def blkid(path: Path) -> dict[str, str]:
    output = run("blkid", "-p", "-o", "export", path)
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def written(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


MADE: dict[str, tuple[int, str, Kind, State, str]] = {
    "ext2": (4, f"mke2fs -q -t ext2 -L label -U {UUID}", Kind.EXT2, State.CLEAN, "label"),
    "ext3": (8, "mke2fs -q -t ext3 -b 1024 -L label", Kind.EXT3, State.CLEAN, "label"),
    "ext4": (
        8,
        "mke2fs -q -t ext4 -L sixteen-bytes-lo",
        Kind.EXT4,
        State.CLEAN,
        "sixteen-bytes-lo",
    ),
    "ext4-without-journal": (8, "mke2fs -q -t ext4 -O ^has_journal", Kind.EXT4, State.CLEAN, ""),
    "journal": (8, "mke2fs -q -O journal_dev", Kind.JOURNAL, State.CLEAN, ""),
    "xfs": (304, "mkfs.xfs -q -L label", Kind.XFS, State.CLEAN, "label"),
    "btrfs": (112, "mkfs.btrfs -q -L label", Kind.BTRFS, State.CLEAN, "label"),
    "ntfs": (8, "mkfs.ntfs -F -f -q -L läbel", Kind.NTFS, State.CLEAN, "läbel"),
    "fat12": (2, "mkfs.vfat -F 12 -n LABEL", Kind.FAT12, State.CLEAN, "LABEL"),
    "fat16": (20, "mkfs.vfat -F 16 -n LABEL", Kind.FAT16, State.CLEAN, "LABEL"),
    "fat32": (40, "mkfs.vfat -F 32 -n LABEL -i 89ABCDEF", Kind.FAT32, State.CLEAN, "LABEL"),
    "fat32-4k": (300, "mkfs.vfat -F 32 -S 4096", Kind.FAT32, State.CLEAN, ""),
    "swap": (4, "mkswap -q -L label", Kind.SWAP, State.CLEAN, "label"),
    "lvm": (8, "pvcreate -q", Kind.LVM, State.UNKNOWN, ""),
    "luks": (
        *(
            20,
            "cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label label",
        ),
        *(Kind.LUKS, State.UNKNOWN, "label"),
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_a_new_volume_is_found_as_by_blkid(name: str, tmp_path: Path) -> None:
    mib, command, kind, state, label = MADE[name]
    image = new(tmp_path / "image", mib)
    if kind is Kind.LVM:
        with loop_device(image) as device:
            run(*command.split(), f"--devices={device}", device)
    else:
        text = "password" if kind is Kind.LUKS else None
        full = [*command.split(), str(image)]
        subprocess.run(full, input=text, text=True, check=True, capture_output=True)
    found, expected = probe(file_of(image)), blkid(image)

    assert (found.kind, found.state, found.label, found.detail) == (kind, state, label, "")
    assert TYPES.get(kind, kind) == expected["TYPE"]
    assert found.uuid == expected["UUID"]
    assert found.label == run("blkid", "-p", "-s", "LABEL", "-o", "value", image).rstrip("\n")


@pytest.mark.parametrize("version", ["0.90", "1.0", "1.1", "1.2"])
def test_a_member_of_a_mirror_is_no_file_system(version: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(md_member(version))
    found, expected = probe(file_of(image)), blkid(image)

    assert expected["TYPE"] == TYPES[found.kind]
    assert (found.uuid, found.label) == (expected["UUID"], expected.get("LABEL", ""))
    assert found.features == {"raid1"}


def md_member(version: str) -> bytes:
    """Return a member of a mirror of ext4, as md_p.h describes it."""
    size = 4 * MIB + 4096
    data = bytearray(size)
    data[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    if version == "0.90":
        at = size // 65536 * 65536 - 65536
        struct.pack_into("<IIIIIIII", data, at, 0xA92B4EFC, 0, 90, 0, 0, 0x01020304, 0, 1)
        struct.pack_into("<III", data, at + 52, 0x05060708, 0x090A0B0C, 0x0D0E0F10)
        return bytes(data)
    sectors = size // 512
    at = {"1.0": (sectors - 16) // 8 * 8, "1.1": 0, "1.2": 8}[version]
    block = bytearray(256)
    struct.pack_into(
        "<IIII16s32sQi", block, 0, 0xA92B4EFC, 1, 0, 0, bytes(range(16)), b"host:0", 0, 1
    )
    struct.pack_into("<Q", block, 0x90, at)
    block[0xD8:0xDC] = (_md_checksum(block)).to_bytes(4, "little")
    data[at * 512 : at * 512 + 256] = block
    return bytes(data)


def _md_checksum(block: bytearray) -> int:
    total: int = sum(struct.unpack("<64I", block))
    return (total & 0xFFFFFFFF) + (total >> 32)


@contextmanager
def mounted(image: Path, root: Path) -> Iterator[Path]:
    root.mkdir(exist_ok=True)
    with loop_device(image) as device:
        run("mount", device, root)
        try:
            yield root
        finally:
            run("umount", root)


@pytest.mark.mounts
def test_an_ext_volume_in_use_needs_its_journal_or_is_unclean(tmp_path: Path) -> None:
    with mounted_ext(SHAPES["1k-block-map"], tmp_path) as (image, _):
        with_journal = probe(file_of(copied(image, tmp_path / "copy")))
    image = new(tmp_path / "ext2", 4)
    run("mke2fs", "-q", "-t", "ext2", image)
    with mounted(image, tmp_path / "root"):
        without = probe(file_of(copied(image, tmp_path / "copy")))
    run("debugfs", "-w", "-R", "set_super_value state 3", image)
    with_errors = probe(file_of(image))

    assert (with_journal.kind, with_journal.state) == (Kind.EXT3, State.PENDING)
    assert "needs_recovery" in with_journal.features
    assert (without.kind, without.state) == (Kind.EXT2, State.UNCLEAN)
    assert (with_errors.state, with_errors.detail) == (State.UNCLEAN, "it has recorded errors")


@pytest.mark.mounts
@pytest.mark.parametrize("options", ["-l su=256k", "-l version=2"][: 1 + (XFS_CYCLES > 3)])
def test_the_log_of_xfs_is_pending_while_it_is_mounted(options: str, tmp_path: Path) -> None:
    """xfs_logprint says the same of each copy. Records of 256 KiB fill the log of 64 MiB."""
    image, states = new(tmp_path / "image", 304), []
    run("mkfs.xfs", "-q", *options.split(), image)
    for cycle in range(XFS_CYCLES):
        with mounted(image, tmp_path / "root") as root:
            for number in range(100 * cycle):
                with (root / f"{cycle}-{number}").open("wb") as file:
                    file.write(b"content")
                    os.fsync(file.fileno())
            states.append(_xfs_state(copied(image, tmp_path / "copy")))
        states.append(_xfs_state(image))

    assert [ours for ours, _ in states] == [theirs for _, theirs in states]
    assert {State.CLEAN, State.PENDING} == {ours for ours, _ in states}


def _xfs_state(image: Path) -> tuple[State, State]:
    output = run("xfs_logprint", "-t", image)
    assert ("<CLEAN>" in output) != ("<DIRTY>" in output)
    return probe(file_of(image)).state, State.CLEAN if "<CLEAN>" in output else State.PENDING


@pytest.mark.mounts
def test_the_log_tree_of_btrfs_is_pending_after_fsync(tmp_path: Path) -> None:
    image = new(tmp_path / "image", 112)
    run("mkfs.btrfs", "-q", image)
    with mounted(image, tmp_path / "root") as root:
        os.sync()
        with (root / "file").open("wb") as file:
            file.write(b"content")
            os.fsync(file.fileno())
        found = probe(file_of(copied(image, tmp_path / "copy")))

    assert (found.kind, found.state) == (Kind.BTRFS, State.PENDING)
    assert probe(file_of(image)).state is State.CLEAN


def test_a_dirty_ntfs_is_unclean(tmp_path: Path) -> None:
    image = new(tmp_path / "image", 8)
    run("mkfs.ntfs", "-F", "-f", "-q", image)
    run("ntfsfix", image)
    flagged = probe(file_of(image))
    run("ntfsfix", "-d", image)

    assert (flagged.state, flagged.detail) == (State.UNCLEAN, "its dirty flag is set")
    assert probe(file_of(image)).state is State.CLEAN


@pytest.mark.parametrize(
    ("client", "flags", "state"),
    [(0xFFFF, 0, State.CLEAN), (0, 0, State.UNCLEAN), (0, 2, State.CLEAN)],
)
def test_the_state_of_ntfs_is_that_of_its_newest_restart_page(
    client: int, flags: int, state: State, tmp_path: Path
) -> None:
    image = new(tmp_path / "image", 8)
    run("mkfs.ntfs", "-F", "-f", "-q", image)
    data = bytearray(image.read_bytes())
    start = data.index(b"\xff" * 8192)
    pages = ((5, 0xFFFF ^ client, 0), (6, client, flags))
    for at, (number, first, bits) in zip((start, start + 4096), pages, strict=True):
        page = bytearray(4096)
        struct.pack_into("<4sHHQIIHHH", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, 1, 1)
        struct.pack_into("<QHHHH", page, 48, number, 1, 0xFFFF, first, bits)
        data[at : at + 4096] = page

    assert probe(Memory(bytes(data))).state is state


@pytest.mark.parametrize(
    ("name", "offset", "value"),
    [
        *(("fat16", 37, b"\x01"), ("fat32", 65, b"\x01"), ("fat12", 37, b"\x01")),
        *(("fat16", -1, b"\x7f"), ("fat32", -1, b"\xf7")),
    ],
)
def test_a_fat_that_was_in_use_is_unclean(
    name: str, offset: int, value: bytes, tmp_path: Path
) -> None:
    mib, command, kind, *_ = MADE[name]
    image = new(tmp_path / "image", mib)
    run(*command.split(), image)
    if offset < 0:
        reserved = int.from_bytes(image.read_bytes()[14:16], "little")
        offset = reserved * 512 + (3 if kind is Kind.FAT16 else 7)
    written(image, offset, value)

    assert (probe(file_of(image)).kind, probe(file_of(image)).state) == (kind, State.UNCLEAN)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", Kind.UNKNOWN),
        (bytes(100000), Kind.UNKNOWN),
        (b"XFSB" + bytes(5000), Kind.UNKNOWN),
        (b"\xeb\x58\x90-FVE-FS-" + bytes(5000), Kind.BITLOCKER),
        (b"\0\0\0ReFS\0\0\0\0" + bytes(5000), Kind.REFS),
        (b"\0\0\0EXFAT   " + bytes(5000), Kind.EXFAT),
        (bytes(4086) + b"S1SUSPEND\0", Kind.SWAP),
        (bytes(510) + b"\x55\xaa" + bytes(5000), Kind.UNKNOWN),
    ],
)
def test_other_contents_are_found_by_their_signature(content: bytes, expected: Kind) -> None:
    assert probe(Memory(content)).kind is expected


def test_a_volume_that_needs_a_replay_says_why(tmp_path: Path) -> None:
    data = bytearray(4096)
    data[4086:4096] = b"S1SUSPEND\0"

    assert probe(Memory(data)) == Probe(
        Kind.SWAP, State.PENDING, detail="it has a suspended system"
    )


@pytest.mark.parametrize("at", [48, 96])
def test_a_log_that_leaves_the_volume_is_unknown(at: int, tmp_path: Path) -> None:
    mib, command, *_ = MADE["xfs"]
    image = new(tmp_path / "image", mib)
    run(*command.split(), image)
    written(image, at, b"\x7f")

    assert probe(file_of(image)).detail == "its log is outside of the volume"
