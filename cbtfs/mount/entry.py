"""One name in the mount, with what a file system says of it."""

import enum
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cbtfs.core.names import encode_name

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NAME_BYTES: Final = 255

STATUS_DIRECTORY: Final = ".cbtfs"
"""What the mount has beside VMs; encode_name() leaves no dot at the start of a VM's name."""
BY_ID_DIRECTORY: Final = ".by-id"
STATUS_FILE: Final = "status.json"
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)-(\d\d)-(\d\d)Z", re.ASCII)


class EntryType(enum.Enum):
    """What an entry is."""

    DIRECTORY = enum.auto()
    FILE = enum.auto()
    LINK = enum.auto()


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or link."""

    name: str
    inode: int
    type: EntryType
    time_ns: int
    """The moment of the point, in nanoseconds since 1970."""
    size: int = 0
    allocated_bytes: int = 0
    is_name_permanent: bool = False
    """Whether the name means this for as long as its directory is there."""
    is_content_permanent: bool = False
    """Whether size and bytes never change."""
    is_volatile: bool = False
    """Whether the name may mean something else at the next look: it must not be cached."""


def nanoseconds(moment: datetime) -> int:
    """Nanoseconds from 1970 to *moment*, exactly; negative before."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def time_of_name(name: str) -> int:
    """The moment that a point's name spells, in nanoseconds since 1970; 0 if it spells none."""
    match = _MOMENT.match(name)
    if match is None:
        return 0
    date, hour, minute, second = match.groups()
    try:
        return nanoseconds(datetime.fromisoformat(f"{date}T{hour}:{minute}:{second}+00:00"))
    except ValueError:
        return 0


def listable_name(name: str) -> str:
    """*name* if it can stand in a listing, else encoded: one bad name hides all the others."""
    is_plain = name.isascii() and name.isprintable() and "/" not in name  # nearly all are
    is_fine = name not in ("", ".", "..") and (is_plain or not any(map(_is_unlistable, name)))
    if is_fine and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    return encode_name(name)


def _is_unlistable(character: str) -> bool:
    category = unicodedata.category(character)
    return character == "/" or category[0] == "C" or category in ("Zl", "Zp")
