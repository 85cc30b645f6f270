from collections.abc import Callable
from typing import final

Read = Callable[[int, int, int], bytes | memoryview | int]

@final
class PackFile:
    """A descriptor of a pack, closed when neither Python nor a leaf refers to it."""

    def __new__(cls, fd: int) -> PackFile: ...
    def fileno(self) -> int: ...

@final
class Leaf:
    """Where 64 chunks are; *entries* are encoded locations (store/catalog/records), None for zeros.

    A chunk can be read once the file of its pack is attached.
    """

    def __new__(cls, entries: tuple[bytes | None, ...]) -> Leaf: ...
    def wanted_pack(self, slot: int, /) -> int | None:
        """The number of the pack that has to be attached before that slot can be read."""

    def attach(self, pack: int, file: PackFile, /) -> None:
        """Let all chunks of pack number *pack* be read from *file*."""

@final
class Chunks:
    """Verified bytes of chunks, and a cache of those that had to be decoded.

    Chunks that were compressed are verified by their digest when they are decoded, raw ones by
    the CRC-32 of each 4 KiB that is read; where *is_strict*, raw chunks that are read whole by
    their digest. *digest_of* computes it from a chunk's bytes, with the prefix of its digest before
    them (docs/format.md). Safe to use from several threads.
    """

    def __new__(
        cls, cache_bytes: int, digest_of: Callable[[memoryview], bytes], is_strict: bool
    ) -> Chunks: ...
    @property
    def cached_bytes(self) -> int: ...
    def fill(
        self, leaf: Leaf, block_size: int, offset: int, target: bytearray | memoryview, /
    ) -> int:
        """Put a leaf's bytes from *offset* on into *target*, zeros too; how many are there.

        Fewer than it takes where a pack is not attached, or a chunk cannot be proven.
        """

@final
class Requests:
    """The requests of one FUSE device: reads of known files are answered, the rest is passed on.

    *device* is a descriptor of /dev/fuse, *session* one end of a SOCK_SEQPACKET pair, whose other
    end pyfuse3 has in place of the device. Both stay the caller's to close. Everything is safe to
    call while threads are in serve().
    """

    def __new__(cls, device: int, session: int, chunks: Chunks) -> Requests: ...
    def add_file(self, inode: int, size: int, block_size: int, /) -> None:
        """Answer reads of that inode, as far as its leaves are known."""

    def drop_file(self, inode: int, /) -> None:
        """Know that inode no more."""

    def put_leaf(self, inode: int, index: int, leaf: Leaf | None, /) -> None:
        """Know leaf number *index* of a file for a while; None where it is zeros."""

    def clear(self) -> None:
        """Know no leaf any more."""

    def serve(self, prepare: Callable[[int, int, int], bool], read: Read, /) -> None:
        """Answer reads and pass on the rest until the file system is unmounted.

        A read of (inode, offset, length) that cannot be answered goes to *prepare*, which makes
        known what it takes and returns True, or else to *read*, for bytes or an errno. Neither may
        raise. OSError if the device cannot be read.
        """

    def pass_replies(self) -> None:
        """Give the kernel what comes through *session*, until its other end is closed."""

def open_pack_files() -> int:
    """How many descriptors of packs this process has open."""

def removed_pack_files() -> bool:
    """Whether a pack that this process has open was removed: its room is not free until then."""

def end_at_faults(text: bytes, code: int, /) -> None:
    """Write *text*, at most 512 bytes, to stderr and exit with *code* at SIGABRT, SIGBUS, SIGSEGV.

    For the life of the process, and of those forked from it.
    """

def crc_table(chunk: bytes | bytearray | memoryview, /) -> bytes:
    """The CRC-32 of each 4 KiB of a raw chunk, as they stand before its payload."""
