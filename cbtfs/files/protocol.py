"""The protocol of engines, which read one file system, and its values.

Names and paths are str as `os.fsdecode` makes them: bytes that are not UTF-8 are surrogates. A path
starts with "/", has no empty component, no "." and no "..", and is relative to the root of its file
system. Engines never follow links: the tree of a point does (`cbtfs.files.tree`).
"""

import enum
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError, DataCorrupt, ExitCode, FormatNotSupported

if TYPE_CHECKING:
    from cbtfs.files.folder import Folder

MAX_READ_BYTES: Final = 1 << 20
"""Longest read of an engine."""


class Kind(enum.StrEnum):
    """Types of files."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    CHARACTER = "character-device"
    BLOCK = "block-device"
    FIFO = "fifo"
    SOCKET = "socket"
    UNKNOWN = "unknown"
    """An entry whose inode cannot be read; `defect` is the reason."""


KIND_OF_MODE: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}
"""Types of files by S_IFMT of their mode."""
FORMAT_OF_KIND: Final = {kind: bits for bits, kind in KIND_OF_MODE.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as its directory and its inode describe it."""

    name: str
    """Empty for the root of a file system."""
    kind: Kind
    inode: int
    mode: int = 0
    """Permission bits, with set-uid, set-gid and sticky; without the type."""
    links: int = 1
    owner: int = 0
    group: int = 0
    size: int = 0
    accessed_ns: int = 0
    """Nanoseconds since 1970, like the other times."""
    modified_ns: int = 0
    changed_ns: int = 0
    created_ns: int | None = None
    device: tuple[int, int] | None = None
    """Major and minor number of a device."""
    defect: str | None = None
    """The reason why the content cannot be read: damaged, encrypted."""


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A part of a file: on the volume, or in no place that is known outside of the engine."""

    start: int
    """Offset in the file."""
    length: int
    offset: int | None
    """Offset on the volume; None if the part must be read by FileSystem.read()."""

    @property
    def end(self) -> int:
        return self.start + self.length


class FileSystem(Protocol):
    """One file system at one point. Calls come from one thread at a time.

    Each method raises GuestFileMissing if no file has the path, FileSystemDamaged if the structures
    on the volume contradict themselves, FileSystemUnsupported if the file needs a feature that the
    engine lacks, and CbtfsError if the volume cannot be read.
    """

    engine: str
    """Name of the engine."""
    kind: str
    """Name of the file system's format: "ext4"."""
    notes: Sequence[str]
    """Facts that a user should know, each one phrase: "its journal was replayed"."""

    def stat(self, path: str) -> Entry:
        """Return the file with that path; a link is not followed."""

    def entries(self, path: str) -> Iterator[Entry]:
        """Yield the files in a directory in any order, without "." and ".."."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return the bytes [offset, offset + length) of a file, fewer only at its end.

        *length* is at most MAX_READ_BYTES.
        """

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the parts of a file from *offset* on that are not holes, ascending."""

    def target(self, path: str) -> str:
        """Return the text of a symbolic link."""

    def attributes(self, path: str) -> dict[str, bytes]:
        """Return the extended attributes; ACLs in the form of the system calls."""

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator["Folder"]:
        """Yield all directories of the file system, in any order, and each once.

        No other method may be called before the last folder was taken, or the iterator closed.
        A large directory comes in several folders. A directory that cannot be read has a failure.
        *areas*: bytes of the volume; with them, the folders have the columns `layouts` and
        `touched`. `scan_by_entries` of `cbtfs.files.folder` does this for any engine.
        """

    def reads(self) -> list[Extent]:
        """Return the bytes of the volume that the engine read since the last call of this method.

        The answers of the other methods in between depend on no other bytes, and on those that were
        read earlier.
        """

    def close(self) -> None:
        """End the engine."""


class GuestFileMissing(CbtfsError):
    """Raised if a file system has no file with a path."""

    exit_code = ExitCode.NO_POINT


class FileSystemDamaged(DataCorrupt):
    """Raised if the structures of a guest's file system contradict themselves."""


class FileSystemUnsupported(FormatNotSupported):
    """Raised if an engine cannot read a file system or a file of it correctly."""


class EngineFailed(CbtfsError):
    """Raised if an engine ended, or exceeded a limit of time or memory."""
