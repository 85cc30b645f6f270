"""File systems for tests: written by the kernel, with everything that a file can have."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.files.protocol import KIND_OF_MODE, Entry, Kind
from tests.volumes.images import loop_device

MIB: Final = 1 << 20
SHAPES: Final = {
    "ext4": "-t ext4 -b 4096",
    "ext4-1k-inline": "-t ext4 -b 1024 -I 512 -O inline_data,ea_inode,metadata_csum",
    "ext4-32bit": "-t ext4 -b 2048 -O ^64bit,^has_journal,^metadata_csum,meta_bg,^resize_inode",
    "ext2": "-t ext2 -b 1024 -I 128",
}
"""Options of mke2fs."""
APPLIANCE_SHAPES: Final = {
    "appliance-ext4": (64, "mke2fs -q -F -t ext4 -O fast_commit"),
    "appliance-xfs": (300, "mkfs.xfs -q -m bigtime=1,rmapbt=1"),
    "appliance-btrfs": (128, "mkfs.btrfs -q"),
}
"""MiB and command of file systems that the suite reads by the appliance."""
MANY: Final = 1000
"""Files in the directory `many`, which has a hash tree."""
_LARGE: Final = 5 << 30
"""Size of a sparse file, above 4 GiB."""
_FRAGMENTS: Final = 40
_BIG: Final = 1 << 24
"""Files above this size are compared at their data only."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image as a volume."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def make(image: Path, options: str, mib: int = 64) -> None:
    """Make an empty file system with these options of mke2fs."""
    make_by(image, f"mke2fs -q -F {options}", mib)


def make_by(image: Path, command: str, mib: int) -> None:
    """Make an empty file system by a command that takes the image as its last argument."""
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    subprocess.run([*command.split(), image], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, options: str = "noatime") -> Iterator[Path]:
    """Mount the file system in *image*; yield the directory."""
    root = image.with_suffix(".mnt")
    root.mkdir(exist_ok=True)
    with loop_device(image) as device:
        subprocess.run(["mount", "-o", options, device, root], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)


def fill(root: Path, many: int = MANY) -> None:
    """Make files of all kinds, with all attributes that the file system takes."""
    (root / "empty").touch()
    (root / "small").write_text("small\n")
    (root / "block").write_bytes(b"b" * 4096)
    (root / "inline").write_bytes(b"i" * 150)
    (root / "link").symlink_to("small")
    (root / "long-link").symlink_to("x" * 200)
    (root / "absolute").symlink_to("/small")
    (root / "dangling").symlink_to("nothing")
    os.link(root / "small", root / "second-name")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 200_000))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    nested = root / "directory" / "in" / "another"
    nested.mkdir(parents=True)
    (nested / "deep").write_text("deep")
    (root / "to-directory").symlink_to("/directory/in")
    _names(root / "names")
    _many(root / "many", many)
    _content(root)
    _attributes(root)


def _names(folder: Path) -> None:
    folder.mkdir()
    for name in (
        b"n" * 255,
        b"\xff\xfe not UTF-8",
        "ümläut".encode(),
        b"new\nline\x1b[31m",
        b"-rf",
    ):
        (folder / os.fsdecode(name)).write_bytes(name)


def _many(folder: Path, count: int) -> None:
    """Fill a directory, with gaps."""
    folder.mkdir()
    for number in range(count):
        (folder / f"file-{number:05}").touch()
    for number in range(0, count, 7):
        (folder / f"file-{number:05}").unlink()


def _content(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(_LARGE if os.statvfs(root).f_bsize > 1024 else MIB)
        for offset in (70_000, 900_000):
            file.seek(offset)
            file.write(b"data at " + str(offset).encode())
    with (root / "reserved").open("wb") as file:
        file.write(b"written")
        try:
            os.posix_fallocate(file.fileno(), 0, 100_000)
        except OSError:
            file.truncate(100_000)
    with (root / "fragmented").open("wb") as one, (root / "other").open("wb") as other:
        for number in range(_FRAGMENTS):
            for file in (one, other):
                file.write(bytes([number]) * 4096)
                file.flush()
                os.fdatasync(file.fileno())
            one.seek(8192, os.SEEK_CUR)


def _attributes(root: Path) -> None:
    file = root / "attributes"
    file.write_text("x")
    os.setxattr(file, "user.comment", b"\0binary\xff")
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "trusted.key", b"t" * 60)
    os.setxattr(
        file, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000")
    )
    os.setxattr(root / "directory", "user.large", b"v" * 600)
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:55:r", file], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:77:rx", root / "directory"], check=True)
    os.chown(file, 100_001, 70_000)
    program = root / "program"
    program.write_text("#!")
    program.chmod(0o6755)
    os.utime(root / "block", ns=(1_000_000_000_123_456_789, 1_500_000_000_987_654_321))
    os.utime(root / "empty", ns=(-5_000_000_000, -1_000_000_000))


def paths_below(root: Path) -> Iterator[str]:
    """Yield the paths of all files below *root*, relative to it and with a slash in front."""
    yield "/"
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            yield "/" + os.path.relpath(os.path.join(folder, name), root)


def expected(root: Path, path: str) -> Entry:
    """Return the entry of a file as stat() reports it, without the time of creation."""
    facts = os.lstat(root / path[1:])
    kind = KIND_OF_MODE[stat.S_IFMT(facts.st_mode)]
    is_device = kind in (Kind.BLOCK, Kind.CHARACTER)
    device = os.major(facts.st_rdev), os.minor(facts.st_rdev)
    return Entry(
        name=path.rpartition("/")[2],
        kind=kind,
        inode=facts.st_ino,
        mode=stat.S_IMODE(facts.st_mode),
        links=facts.st_nlink,
        owner=facts.st_uid,
        group=facts.st_gid,
        size=facts.st_size,
        accessed_ns=facts.st_atime_ns,
        modified_ns=facts.st_mtime_ns,
        changed_ns=facts.st_ctime_ns,
        device=device if is_device else None,
    )


def attributes_of(path: Path) -> dict[str, bytes]:
    """Return the extended attributes of a file; links have none."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


@dataclass(frozen=True, slots=True)
class Written:
    """A file system, and its files as the kernel shows them."""

    image: Path
    entries: dict[str, Entry]
    attributes: dict[str, dict[str, bytes]]
    targets: dict[str, str]
    contents: dict[str, bytes]


def write_tree(image: Path, *, is_busy: bool = False) -> Written:
    """Fill the file system in *image*, and return what the kernel shows.

    *is_busy*: the image is that of a file system in use, whose log needs a replay.
    """
    with mounted(image) as root:
        fill(root)
        entries = {path: expected(root, path) for path in paths_below(root)}
        files = {path: root / path[1:] for path in entries}
        attributes = {path: attributes_of(file) for path, file in files.items()}
        links = [path for path, entry in entries.items() if entry.kind is Kind.LINK]
        targets = {path: os.readlink(files[path]) for path in links}
        contents = {
            path: files[path].read_bytes()
            for path, entry in entries.items()
            if entry.kind is Kind.FILE and entry.size <= _BIG
        }
        if is_busy:
            subprocess.run(["sync", "--file-system", root], check=True)
            busy = image.with_suffix(".busy")
            subprocess.run(["cp", "--sparse=always", image, busy], check=True)
    if is_busy:
        busy.rename(image)
    return Written(image, entries, attributes, targets, contents)
