"""The file `/etc/fstab`: which file systems a guest mounts, and where.

Source: fstab(5) of util-linux.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MAX_CHARACTERS: Final = 1 << 20
_MAX_ENTRIES: Final = 4096
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_BLANKS: Final = re.compile(r"[ \t]+")
_WITHOUT_DEVICE: Final = frozenset(
    {"autofs", "cifs", "devpts", "devtmpfs", "glusterfs", "hugetlbfs", "none", "overlay", "proc"}
    | {"nfs", "nfs4", "ramfs", "smb3", "smbfs", "sshfs", "swap", "sysfs", "tmpfs"}
)
_BINDS: Final = frozenset({"bind", "rbind"})


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system on a volume of the guest, with the path where the guest mounts it."""

    source: str
    """Device or tag, without quotes: "/dev/sda1", "UUID=…", "LABEL=data"."""
    path: str
    """Absolute, without "." and ".."."""
    kind: str
    subvolume: str = ""
    """Option `subvol` of btrfs."""


def parse_fstab(text: str) -> Iterator[Mount]:
    """Yield the file systems on volumes, in the order of the lines.

    Lines that cannot be parsed are ignored, as by mount: one wrong line must not hide the others.
    Mounts of networks, memory, swap space and other directories are left out.
    """
    count = 0
    for line in re.split(r"\r?\n", text[:_MAX_CHARACTERS]):
        mount = _mount(line.strip(" \t"))
        if mount is not None:
            count += 1
            if count > _MAX_ENTRIES:
                return
            yield mount


def _mount(line: str) -> Mount | None:
    if line.startswith("#"):
        return None
    fields = [_unescaped(field) for field in _BLANKS.split(line)]
    if len(fields) < 3:
        return None
    source, path, kind = fields[:3]
    options = fields[3].split(",") if len(fields) > 3 else []
    is_local = source.startswith("/dev/") or "=" in source
    if not path.startswith("/") or kind in _WITHOUT_DEVICE or not is_local or "\0" in path:
        return None
    is_fuse = kind.startswith("fuse") and not kind.startswith("fuseblk")
    if is_fuse or not _BINDS.isdisjoint(options):
        return None
    subvolumes = [option[7:] for option in options if option.startswith("subvol=")]
    path = posixpath.normpath("/" + path.lstrip("/"))
    return Mount(_unquoted(source), path, kind, subvolumes[-1] if subvolumes else "")


def _unescaped(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8) & 0xFF), field)


def _unquoted(source: str) -> str:
    """Return a source without the quotes around the value of a tag."""
    tag, equals, value = source.partition("=")
    if equals and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return f"{tag}={value[1:-1]}"
    return source
