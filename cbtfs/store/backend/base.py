"""The protocols by which the store keeps bytes under names.

`Backend` is the smallest set of operations that a local directory and an object store share: an
object is created once, read, listed and deleted. Closed packs need no more. `FileBackend` adds the
operations of files that format 1 uses for points: objects that are replaced and renamed, and locks.

Names are flat: how a backend arranges them, for instance in folders, is its own business. Every
implementation passes tests/store/backends/test_conformance.py.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from cbtfs.native import PackFile

Parts = Sequence[bytes | memoryview]
"""Bytes to write, one part after the other."""
Buffers = Sequence[bytearray | memoryview]
"""Memory to fill, one buffer after the other."""


class NoReply(OSError):
    """Raised when the storage did not answer: a change may have happened, or may happen later."""


class Throttled(NoReply):
    """Raised when the storage refused requests because of load, for longer than they are repeated.

    A gateway may answer so after it passed the request on: a change may have happened.
    """


class Head(NamedTuple):
    """Facts about an object."""

    size: int
    """Size in bytes, as stored."""
    stamp: bytes
    """At most 24 bytes that change when the object is replaced."""


class Content(NamedTuple):
    """Bytes of an object, and the facts of the object that has these bytes."""

    data: bytes
    head: Head


def sorted_after(names: Collection[str], name: str, prefix: str) -> list[str]:
    """Return those of *names* that Backend.names_after() yields."""
    return sorted(entry for entry in names if entry > name and entry.startswith(prefix))


class OpenObject(Protocol):
    """An object open for reading, until its last reference is dropped."""

    @property
    def path(self) -> Path:
        """Path for messages; its last part is the object's name."""

    @property
    def size(self) -> int:
        """Size in bytes when it was opened."""

    @property
    def file(self) -> PackFile:
        """The local file that has the bytes, for reads by compiled code."""

    @property
    def is_removed(self) -> bool:
        """Whether the object was deleted, so that it takes space until it is closed."""

    def read_into(self, buffers: Buffers, offset: int) -> int:
        """Fill *buffers* from *offset*; return the bytes read, fewer only at the end.

        Raises:
            OSError: the bytes cannot be read.
        """

    def data_from(self, offset: int) -> int:
        """Return the offset of the first byte from *offset* on that is not in a hole."""

    def fetch(self, offset: int, length: int) -> None:
        """Put bytes of a remote object into `file`, as far as there is space.

        Raises:
            FileNotFoundError: the object was deleted.
            OSError: the bytes cannot be read.
        """

    def fetch_again(self, offset: int, length: int) -> bool:
        """Drop local copies of bytes that failed verification; False if no copy exists."""

    def pin(self) -> None:
        """Keep local copies of this object longer than those of others."""


class Upload(Protocol):
    """An object that is being written. No reader finds it before close() has returned."""

    def write(self, parts: Parts) -> int:
        """Append *parts*; return the number of bytes."""

    def close(self) -> None:
        """Give the object its name, durably."""

    def abandon(self) -> None:
        """Discard the object. May be called after close() failed; a second call does nothing."""


class Backend(Protocol):
    """Objects under names, each created once. Safe to use from several threads.

    Methods raise FileNotFoundError if the object does not exist, DataCorrupt if the name leads to
    anything but an object, AccessDenied and OutOfResources, and OSError if the storage fails:
    NoReply if it does not answer, Throttled if it refuses for a while. After an OSError other than
    FileNotFoundError and FileExistsError, a change may have happened, and after NoReply it may
    still happen at any later time.
    """

    def path(self, name: str) -> Path:
        """Return the path of an object for messages."""

    def create(self, name: str, data: bytes) -> None:
        """Create an object durably; a crash leaves all of it or nothing.

        A backend that repeats a request compares the contents if the repetition is refused: an
        equal object counts as created. A caller that repeats create() after an OSError does the
        same. So objects that decide between programs contain a random id.

        Raises:
            FileExistsError: it exists; exactly one of several creators succeeds.
        """

    def upload(self, name: str) -> Upload:
        """Begin an object that is written in parts. Its name is unique: nothing has it."""

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        """Return *length* bytes at *offset*, fewer only at the end; by default the whole object."""

    def open(self, name: str) -> OpenObject:
        """Open an object for many reads."""

    def names(self) -> Collection[str]:
        """Return the names of all objects, in arbitrary order."""

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        """Yield the names that begin with *prefix* and are greater than *name*, ascending.

        Names are requested in pages while the caller iterates. Every object is listed that exists
        from the first page to the last. An object that is created or deleted meanwhile is listed or
        not, independently of others. Names are ordered by their code points.
        """

    def head(self, name: str) -> Head:
        """Return facts about an object."""

    def sizes(self) -> Mapping[str, int]:
        """Return the sizes in bytes, as stored, of all objects by name.

        Names that lead to anything but an object are left out.
        """

    def delete(self, name: str) -> None:
        """Remove an object; does nothing if it does not exist."""

    def flush(self) -> None:
        """Make renames and deletions durable."""

    def unfinished(self) -> int:
        """Return the number of objects that are being written or that a crash left incomplete."""

    def discard_unfinished(self) -> int:
        """Remove incomplete objects, except uploads of running programs; return their number."""

    def follow(self) -> bool:
        """Switch to other storage that has replaced this one at its address; False if none has."""

    def close(self) -> None:
        """Release the storage; a second call does nothing."""


class FileBackend(Backend, Protocol):
    """Objects that can also be replaced, renamed and locked, as format 1 requires for points."""

    def replace(self, name: str, data: bytes) -> None:
        """Create or replace an object durably; a crash leaves the old or the new one."""

    def rename(self, name: str, new: str) -> None:
        """Rename an object atomically, replacing *new*. flush() makes it durable."""

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Hold a shared lock on an object. It stays with the object if that is renamed.

        Raises:
            FileNotFoundError: the object does not exist, or lost its name before it was locked.
        """

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Hold the exclusive lock on an object; False, without a wait, if that is not possible."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of the whole backend; waits for another holder, also in other processes."""
