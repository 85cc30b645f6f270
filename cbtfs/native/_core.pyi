from array import array
from collections.abc import Callable
from typing import final

ReadFunction = Callable[[int, int, int], bytes | memoryview | int]
SeekFunction = Callable[[int, int], int | None]
SegmentTuple = tuple[int, int, tuple[tuple[int, int], ...]]

@final
class PackFile:
    """The descriptor of a pack. The last reference, from Python or from a leaf, closes it.

    A file that *is_partial* has extents of 1 MiB, at first none. Chunks in other extents are not
    read from it.
    """

    def __new__(cls, fd: int, is_partial: bool = False) -> PackFile: ...
    def fileno(self) -> int:
        """Return the descriptor."""

    def set_extents(self, first: int, count: int, are_present: bool, /) -> None:
        """Record that extents are in a partial file or not, also for other objects of the file."""

    def has(self, offset: int, length: int, /) -> bool:
        """Return True if the bytes [offset, offset + length) are in the file."""

    def set_key(self, key: bytes, /) -> None:
        """Set the key of the chunks of an encrypted pack, unless the file has one.

        *key* is the repository's id, the pack's id, and the key: 16, 16 and 32 bytes.
        """

@final
class Leaf:
    """The locations of 64 chunks.

    *entries* are encoded locations (store/catalog/records.py), or None for zeros. A chunk is
    readable once the file of its pack is attached.
    """

    def __new__(cls, entries: tuple[bytes | None, ...]) -> Leaf: ...
    def wanted_pack(self, slot: int, /) -> int | None:
        """Return the number of the pack that *slot* still requires, or None."""

    def wanted_bytes(self, slot: int, /) -> tuple[int, int, int] | None:
        """Return number of the pack, offset and length of the frame of *slot*.

        None if an attached file has the frame, or if the block is zeros.
        """

    @property
    def data_mask(self) -> int:
        """Bit n is set if block n of the leaf holds data."""

    def attach(self, pack: int, file: PackFile, /) -> None:
        """Read all chunks in pack number *pack* from *file*."""

@final
class Chunks:
    """Verified bytes of chunks, with a cache of decoded chunks. Safe to use from several threads.

    A compressed chunk is verified by its digest when it is decoded. A raw chunk is verified by the
    CRC-32 of each 4 KiB that is read or, if *is_strict* and the whole chunk is read, by its digest.
    *digest_of* computes the digest of a chunk's content; its argument begins with the digest's
    prefix (docs/format.md). None: compiled code computes it, which requires has_blake3(); *key* is
    then the key of the digests, or None. A chunk in an encrypted pack is verified by its tags.
    """

    def __new__(
        cls,
        cache_bytes: int,
        digest_of: Callable[[memoryview], bytes] | None,
        is_strict: bool,
        key: bytes | None = None,
    ) -> Chunks: ...
    @property
    def cached_bytes(self) -> int:
        """Size of the decoded chunks in the cache."""

    def fill(
        self, leaf: Leaf, block_size: int, offset: int, target: bytearray | memoryview, /
    ) -> int:
        """Copy the bytes of *leaf* from *offset* to *target*, and return their number.

        It is less than the size of *target* at the end of the leaf, at a chunk whose pack is not
        attached, and at a chunk that cannot be verified.
        """

    def write(
        self,
        leaf: Leaf,
        block_size: int,
        start: int,
        end: int,
        files: tuple[int, int],
        position: int,
        buffer: memoryview,
        /,
    ) -> int:
        """Write the data of *leaf* from *start* to *end* to a file, without Python's lock.

        Zeros are not written. *files* are descriptors of the file: one that uses the page cache,
        and one for direct writes of whole pages, or -1. The leaf is at *position* of the file.
        *buffer* has space for a block or more, begins at a page, and belongs to this call alone.
        Return the offset in the leaf before which all data is written: less than *end* where fill()
        would end.

        Raises:
            OSError: a write failed.
            ValueError: *buffer* is too small, or another argument is invalid.
        """

@final
class Requests:
    """The requests of one FUSE device: answers reads and seeks of open files, forwards the rest.

    *device* is a descriptor of /dev/fuse. *session* is one end of a SOCK_SEQPACKET pair; pyfuse3
    uses the other end as its device. The caller closes both. All methods are safe to call while
    other threads run serve().
    """

    def __new__(cls, device: int, session: int, chunks: Chunks) -> Requests: ...
    def add_disk(self, inode: int, size: int, block_size: int, /) -> None:
        """Answer reads and seeks of *inode* as far as its leaves and its map are known."""

    def add_slice(self, inode: int, segments: tuple[SegmentTuple, ...], /) -> None:
        """Answer reads and seeks of a file that consists of parts of disks.

        The disks must be added as well; their leaves and maps are used. A segment is (length,
        stripe_bytes, areas), and an area is (inode number of a disk, offset). The areas of a
        segment contribute *stripe_bytes* in turn. Inode number 0 means zeros. A file that is open
        already keeps its segments.

        Raises:
            ValueError: a segment is empty, has no area, or ends beyond 2^63 - 1.
        """

    def has_file(self, inode: int, /) -> bool:
        """Return True if the disk or slice was added and not dropped."""

    def drop_file(self, inode: int, /) -> None:
        """Stop answering reads and seeks of *inode*, and drop its leaves and its map."""

    def put_leaf(self, inode: int, index: int, leaf: Leaf | None, /) -> None:
        """Cache leaf number *index* of a file; None means zeros. The cache is bounded."""

    def put_map(self, inode: int, first: int, masks: array[int] | bytes, end: int, /) -> None:
        """Cache which blocks of the leaves from *first* to *end* hold data. The cache is bounded.

        *masks* has 8 bytes, in the order of the machine, for each of the first leaves; bit n is set
        if block n holds data. The leaves from there to *end* are zeros. The masks belong to one
        group of 64 leaves, whose first number is a multiple of 64.

        Raises:
            ValueError: the masks are not such a range.
        """

    def clear(self) -> None:
        """Drop all cached leaves. Maps stay: they follow from the digest of a disk's root."""

    def serve(
        self,
        prepare: Callable[[int, int, int], bool],
        read: ReadFunction,
        prepare_seek: SeekFunction,
        /,
    ) -> None:
        """Answer reads and seeks, and forward other requests, until the file system is unmounted.

        For a read of (inode, offset, length) that lacks a leaf or a pack, serve() calls *prepare*,
        which returns True after it has provided them. Otherwise serve() calls *read*, which returns
        the bytes or an errno.

        For a seek of (inode, offset) that lacks a part of the map, serve() calls *prepare_seek*. It
        returns None after it has provided the part at *offset*, the size of a file that has no
        holes, or a negative errno. After a few parts serve() replies with the end of the range that
        it has searched (docs/decisions). None of the functions may raise.

        Raises:
            OSError: the device cannot be read.
        """

    def forward_replies(self) -> None:
        """Forward replies from *session* to the kernel until its other end is closed."""

def open_pack_files() -> int:
    """Return the number of pack files that this process has open."""

def has_deleted_pack_files() -> bool:
    """Return True if this process has a deleted pack open, which keeps its space in use."""

def exit_on_fault(text: bytes, code: int, shortage: bytes, shortage_code: int, /) -> None:
    """Write *text*, at most 512 bytes, to stderr and exit with *code* at a fatal signal.

    If the signal is SIGABRT and the process gets no memory, *shortage* and *shortage_code* are
    used instead: libraries in Rust abort when an allocation fails.
    The signals are SIGABRT, SIGBUS and SIGSEGV. The setting lasts for the life of the process and
    is inherited by its forks.
    """

def crc_table(chunk: bytes | bytearray | memoryview, /) -> bytes:
    """Return the CRC table of a raw chunk: the CRC-32 of each 4 KiB."""

def crc32(data: bytes | bytearray | memoryview, value: int, /) -> int:
    """Return the CRC-32 of the bytes whose CRC-32 is *value*, 0 for none, followed by *data*."""

def crc32c(data: bytes | bytearray | memoryview, value: int, /) -> int:
    """Return the CRC-32C register after *data*, if it was *value* before.

    Neither value is inverted: the usual CRC-32C of data is crc32c(data, 0xFFFFFFFF) ^ 0xFFFFFFFF.
    """

def has_blake3(lanes: int = 0, /) -> bool:
    """Return True if compiled code can compute digests on this processor.

    *lanes* is 8, which needs AVX2, 16, which needs AVX-512, or 0 for either.
    """

def blake3(
    prefix: bytes,
    data: bytes | bytearray | memoryview,
    lanes: int = 0,
    key: bytes | None = None,
    /,
) -> bytes:
    """Return the BLAKE3-256 of *prefix*, 8 bytes, followed by *data*; keyed, if *key* is given.

    Long data is hashed without Python's lock. 0 *lanes* are as many as the processor has.

    Raises:
        ValueError: prefix or key has another length, or has_blake3(lanes) is false.
    """

def matching_blocks(
    data: bytes | bytearray | memoryview,
    block_size: int,
    digests: bytes | memoryview,
    key: bytes | None = None,
    /,
) -> bytes:
    """Return for each block of *data* 1 if it has its digest, 0 if not, without Python's lock.

    *digests* has 32 bytes for each block. 32 zeros mean a block of zeros. For its digest, the last
    block is padded with zeros to *block_size*.

    Raises:
        ValueError: the sizes do not fit, or has_blake3() is false.
    """

def matching_in_file(
    files: tuple[int, int],
    areas: bytes | memoryview | array[int],
    block_size: int,
    digests: bytes | memoryview,
    buffer: memoryview,
    key: bytes | None = None,
    /,
) -> bytes:
    """Read parts of a file, and return matching_blocks() of them, without Python's lock.

    *areas* are pairs of offset and length, 8 aligned bytes each in the order of the machine.
    *digests* has 32 bytes for each block of each area in turn; only the last block of an area may
    be short.
    *files* are descriptors of the file as for Chunks.write(): whole pages that the page cache lacks
    are read directly. *buffer* has space for a block or more, begins at a page, and belongs to this
    call alone.

    Raises:
        EOFError: the file ends within an area.
        OSError: a read failed.
        ValueError: the sizes do not fit, or has_blake3() is false.
    """

def is_cached(fd: int, offset: int, length: int, /) -> bool:
    """Return True if the page cache has all pages of a range of a file or block device.

    Nothing is read: a read with RWF_NOWAIT would start a read-ahead.

    Raises:
        OSError: that is unknown.
        ValueError: the range is empty or invalid.
    """

def node_children(payload: bytes, /) -> tuple[int, ...]:
    """Return the 64 ids in an entry of the database 'map', 0 for null.

    store/catalog/records.py encodes them.

    Raises:
        ValueError: the entry is corrupt.
    """

def node_entries(
    children: tuple[int, ...],
    known: tuple[bytes | None, ...],
    items: list[tuple[bytes, bytes]],
    seed: int,
    /,
) -> tuple[tuple[bytes | None, ...], bytes]:
    """Return the entries of *children*, None for null, and the content of the node.

    *known* are 64 entries that were verified before, or None. *items* are keys and values of the
    database 'objects', those of the other children that are not null, in their order. *seed* is the
    CRC-32 of the name of the database. An entry is an encoded location; the content of a node is
    the digests of its children.

    Raises:
        KeyError: a child has no item.
        ValueError: an item fails its checksum.
    """

def seal_frame(
    keys: bytes, offset: int, head: bytes, payload: bytes | bytearray | memoryview, /
) -> bytes:
    """Return a frame of an encrypted pack: header, tags, payload and padding, all as stored.

    *keys* are the ids of repository and pack, 16 bytes each, and the pack's keys for metadata and
    for chunks, 32 bytes each. *head* is the plain header (docs/format.md). Encrypts without
    Python's lock.

    Raises:
        ValueError: the sizes do not fit.
    """

def open_header(keys: bytes, offset: int, data: bytes | bytearray | memoryview, /) -> bytes | None:
    """Return the plain header at the start of *data*, or None if its tag does not match."""

def open_payload(
    keys: bytes, offset: int, head: bytes, data: bytes | bytearray | memoryview, /
) -> bytes | None:
    """Return the plain payload of the frame *head*; None if a tag does not match.

    *data* begins with the tags, which the payload follows.
    """
