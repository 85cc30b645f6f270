"""Entries of directories in the mount, and their names and times."""

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
"""Directory of the mount's status. No VM has this name: encode_name() encodes a leading dot."""
BY_ID_DIRECTORY: Final = ".by-id"
STATUS_FILE: Final = "status.json"
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)-(\d\d)-(\d\d)Z", re.ASCII)


class EntryType(enum.Enum):
    """Type of an entry."""

    DIRECTORY = enum.auto()
    FILE = enum.auto()
    LINK = enum.auto()
    FIFO = enum.auto()
    SOCKET = enum.auto()


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """Facts of a file of a guest that other files in the mount do not have."""

    mode: int
    """Permissions in the guest."""
    links: int
    accessed_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link."""

    name: str
    inode: int
    type: EntryType
    time_ns: int
    """Time of the point in nanoseconds since 1970."""
    size: int = 0
    allocated_bytes: int = 0
    is_name_permanent: bool = False
    """The name refers to this file as long as its directory exists."""
    is_content_permanent: bool = False
    """Size and content never change."""
    is_volatile: bool = False
    """The name may refer to another file at the next look-up, so it must not be cached."""
    facts: GuestFacts | None = None


def nanoseconds(moment: datetime) -> int:
    """Return the exact number of nanoseconds from 1970 to *moment*; negative before 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def time_of_name(name: str) -> int:
    """Return the time in a point's name in nanoseconds since 1970, or 0 if it has none."""
    match = _MOMENT.match(name)
    if match is None:
        return 0
    date, hour, minute, second = match.groups()
    try:
        return nanoseconds(datetime.fromisoformat(f"{date}T{hour}:{minute}:{second}+00:00"))
    except ValueError:
        return 0


def listable_name(name: str) -> str:
    """Return *name*, encoded if it is invalid: the kernel would reject the whole listing."""
    is_plain = name.isascii() and name.isprintable() and "/" not in name  # nearly all names are
    is_fine = name not in ("", ".", "..") and (is_plain or not any(map(_is_unlistable, name)))
    if is_fine and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    return encode_name(name)


def _is_unlistable(character: str) -> bool:
    category = unicodedata.category(character)
    return character == "/" or category[0] == "C" or category in ("Zl", "Zp")
