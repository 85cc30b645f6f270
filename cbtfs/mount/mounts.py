"""The mounted file systems of this mount namespace."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

FSNAME: Final = "cbtfs"
"""Source of a mount of cbtfs, as /proc/self/mountinfo shows it."""
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system: one line of /proc/self/mountinfo."""

    path: str
    device: str
    """major:minor"""
    source: str

    @property
    def is_ours(self) -> bool:
        return self.source == FSNAME


def mounts() -> Iterator[Mount]:
    """Yield the mounted file systems, later mounts last."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split()
            after = fields.index(b"-")
            path, source = (
                _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), escaped)
                for escaped in (fields[4], fields[after + 2])
            )
            yield Mount(os.fsdecode(path), fields[2].decode(), os.fsdecode(source))


def mount_at(path: Path) -> Mount | None:
    """Return the topmost file system at *path*, or None."""
    return next((m for m in reversed(list(mounts())) if m.path == str(path)), None)
