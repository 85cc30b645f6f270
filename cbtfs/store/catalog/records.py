"""Keys and values of the catalog. Every value ends in a CRC-32 over database, key and value.

LMDB has no checksums, so a flipped bit in its file would change a value without an error. A value
does not change after it is written, unless the comment of its database says so: a stale page can
lose an entry, but not return a different one.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, cast

from cbtfs.core.frame import SIGNER_BYTES, Codec, Frame, Kind
from cbtfs.core.ids import DIGEST_BYTES, Digest, ObjectId, PackId, PointId
from cbtfs.core.manifest import Manifest
from cbtfs.core.moment import parse_moment
from cbtfs.errors import DataCorrupt
from cbtfs.native import node_children, node_entries

MAP: Final = b"map"
"""Object id of a node -> the ids of its children."""
OBJECTS: Final = b"objects"
"""Object id -> its location; replaced when the object moves to another pack."""
DIGESTS: Final = b"digests"
"""First 5 bytes of a digest -> the ids of its objects; replaced when one is added."""
POINTS: Final = b"points"
"""Point id -> its manifest and state; replaced when the state changes."""
ORDER: Final = b"order"
"""VM id, order number, point id -> name and times of the point: the points of a VM in order."""
VMS: Final = b"vms"
"""VM id -> the VM in its newest manifest; replaced with each point."""
PACKS: Final = b"packs"
"""Number of a pack -> its id and size."""
META: Final = b"meta"
"""Schema, generation, next numbers; replaced."""

INTEGER_KEYS: Final = (MAP, OBJECTS)
DATABASES: Final = (MAP, OBJECTS, DIGESTS, POINTS, ORDER, VMS, PACKS, META)

_CRC = struct.Struct("<I")
_OBJECT = struct.Struct("<IIIIBBBB32s")
_CHILDREN = struct.Struct("<QQQ")
_WIDTHS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_PACK = struct.Struct("<16sQQ")
UNSIGNED: Final = bytes(SIGNER_BYTES)
"""Signer of a pack that has no valid signature and that no reader has verified."""
_KINDS: Final = {int(kind): kind for kind in Kind}
_CODECS: Final = {int(codec): codec for codec in Codec}
"""Enumeration members by number: calling the class takes ten times as long."""
_SEEDS: Final = {name: zlib.crc32(name) for name in DATABASES}
_RESIDUE: Final = 0x2144DF1C
"""CRC-32 of any bytes that end in their own CRC-32, least byte first."""
_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80

PREFIX_BYTES: Final = 5
"""Of a million objects one shares its prefix with another; a look-up then tries both."""
_KEY_BYTES: Final = 8
_MAX_NUMBER: Final = 1 << 62
"""Limit of object ids, above that of any real repository and below overflow."""


_ADVICE: Final = "run 'cbtfs repair', which rebuilds it from packs and points"


class CatalogDamaged(DataCorrupt):
    """Raised when the catalog is damaged; it can be rebuilt."""

    def __init__(self, what: str) -> None:
        is_complete = _ADVICE in what  # It wraps the message of another error.
        super().__init__(what if is_complete else f"the catalog is damaged ({what}): {_ADVICE}")


def integer_key(number: int) -> bytes:
    """Return a key of MAP or OBJECTS as LMDB compares integers: 8 bytes in native order."""
    return number.to_bytes(8, sys.byteorder)


def integer_keys(numbers: Sequence[int]) -> list[bytes]:
    """Return the keys of many *numbers*, faster than one by one."""
    packed = array("Q", numbers).tobytes()
    return [packed[at : at + _KEY_BYTES] for at in range(0, len(packed), _KEY_BYTES)]


def key_integer(key: bytes) -> int:
    """Return the number in a key of MAP or OBJECTS; CatalogDamaged if it is out of range."""
    number = int.from_bytes(key, sys.byteorder)
    if len(key) != _KEY_BYTES or number > _MAX_NUMBER:
        raise CatalogDamaged("corrupt key of an object")
    return number


def number_key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def close_value(database: bytes, key: bytes, payload: bytes) -> bytes:
    """Return *payload* with its CRC."""
    crc = zlib.crc32(payload, zlib.crc32(key, _SEEDS[database]))
    return payload + _CRC.pack(crc)


def open_value(database: bytes, key: bytes, value: bytes) -> bytes:
    """Return the payload of *value*; CatalogDamaged if its CRC does not match."""
    if zlib.crc32(value, zlib.crc32(key, _SEEDS[database])) != _RESIDUE or len(value) < _CRC.size:
        raise CatalogDamaged(f"an entry of {database.decode()} fails its checksum")
    return value[: -_CRC.size]


class OtherSchema(CatalogDamaged):
    """Raised when another version of cbtfs made the catalog: its values cannot be read."""

    def __init__(self, schema: int) -> None:
        DataCorrupt.__init__(
            self,
            f"the catalog was made by another version of cbtfs (schema {schema}): "
            "the next command that writes rebuilds it",
        )


class Location(NamedTuple):
    """Location of an object: the number of its pack, and its frame."""

    pack: int
    frame: Frame


def encode_location(location: Location) -> bytes:
    frame = location.frame
    return _OBJECT.pack(
        location.pack,
        frame.offset,
        frame.stored,
        frame.plain,
        frame.kind,
        frame.level,
        frame.codec,
        frame.is_sealed,
        frame.digest,
    )


def decode_location(payload: bytes) -> Location:
    try:
        pack, offset, stored, plain, kind, level, codec, sealed, digest = _OBJECT.unpack(payload)
        frame = Frame(
            offset, stored, plain, _KINDS[kind], level, _CODECS[codec], Digest(digest), sealed != 0
        )
    except (struct.error, KeyError) as exc:
        raise CatalogDamaged("corrupt entry in database 'objects'") from exc
    return Location(pack, frame)


def location_digest(payload: bytes) -> Digest:
    """Return the digest in an encoded location."""
    return Digest(payload[-DIGEST_BYTES:])


def encode_children(children: Sequence[ObjectId]) -> bytes:
    """Encode 64 ids as two bitmaps, the least id, and the distance of each run from that id.

    A run is a sequence of consecutive ids, as objects have that were written together. One bitmap
    marks the children that are not null, the other those of them that start a run. A distance takes
    1, 2, 4 or 8 bytes, the smallest width that fits all.
    """
    bits = breaks = count = 0
    firsts = list[int]()
    following = -1
    for slot, child in enumerate(children):
        if child:
            bits |= 1 << slot
            if child != following:
                breaks |= 1 << count
                firsts.append(child)
            following = child + 1
            count += 1
    least = min(firsts, default=0)
    beyond = max(firsts, default=0) - least
    width = next(width for width in _WIDTHS if beyond < 1 << 8 * width)
    distances = struct.pack(_distances(len(firsts), width), *(first - least for first in firsts))
    return _CHILDREN.pack(bits, breaks, least) + distances


def decode_children(payload: bytes) -> tuple[ObjectId, ...]:
    """Return 64 ids; 0 for a null child."""
    try:
        return cast(tuple[ObjectId, ...], node_children(payload))
    except ValueError as exc:
        raise CatalogDamaged("corrupt entry in database 'map'") from exc


def open_children(
    children: tuple[ObjectId, ...],
    known: tuple[bytes | None, ...],
    items: list[tuple[bytes, bytes]],
) -> tuple[tuple[bytes | None, ...], bytes]:
    """Return the encoded locations of 64 *children*, None for null, and the node's content.

    *known* has 64 of these locations, or None; *items* has key and value of each other child that
    is not null, in their order.

    Raises:
        KeyError: a child has no item.
        CatalogDamaged: an item fails its checksum.
    """
    try:
        return node_entries(children, known, items, _SEEDS[OBJECTS])
    except ValueError as exc:
        raise CatalogDamaged("an entry of objects fails its checksum") from exc


def _distances(count: int, width: int) -> str:
    return f"<{count}{_WIDTHS[width]}" if count else ""


def encode_ids(ids: Iterable[ObjectId]) -> bytes:
    """Encode ids in 7 bits per byte, the lowest first; a set high bit means that more follow."""
    encoded = bytearray()
    for number in ids:
        left: int = number
        while left > _SEVEN_BITS:
            encoded.append(left & _SEVEN_BITS | _MORE)
            left >>= 7
        encoded.append(left)
    return bytes(encoded)


def decode_ids(payload: bytes) -> tuple[ObjectId, ...]:
    ids = list[ObjectId]()
    number = shift = 0
    for byte in payload:
        number |= (byte & _SEVEN_BITS) << shift
        shift += 7
        if not byte & _MORE:
            ids.append(ObjectId(number))
            number = shift = 0
    if shift or any(number > _MAX_NUMBER for number in ids):
        raise CatalogDamaged("corrupt entry in database 'digests'")
    return tuple(ids)


class PackRecord(NamedTuple):
    id: PackId
    size: int
    objects: int
    """Number of frames in the pack, whether the catalog knows them or not."""
    signer: bytes = b""
    """SIGNER_BYTES of the capture key that signed the pack, or UNSIGNED: other writers do not count
    its frames as copies. Empty if a program that can read content wrote or verified the pack."""


def encode_pack(record: PackRecord) -> bytes:
    return _PACK.pack(bytes.fromhex(record.id), record.size, record.objects) + record.signer


def decode_pack(payload: bytes) -> PackRecord:
    signer = payload[_PACK.size :]
    if len(payload) < _PACK.size or len(signer) not in (0, SIGNER_BYTES):
        raise CatalogDamaged("corrupt entry in database 'packs'")
    pack, size, objects = _PACK.unpack_from(payload)
    return PackRecord(PackId(pack.hex()), size, objects, signer)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)
_ENTRY = struct.Struct("<qqBB")
_NUMBERED: Final = 1
_GIVEN: Final = 2


class PointEntry(NamedTuple):
    """Name and times of a point, for look-ups by name."""

    order: int
    point: PointId
    name: str
    """Name of the point in the mount."""
    vm_name: str
    """Name of the VM at this point."""
    time: datetime
    committed_us: int
    """Time of the commit in microseconds since 1970, by the clock of the writer."""
    is_numbered: bool
    """Whether its order number is larger than that of every earlier point of any VM."""
    is_clocked: bool
    """Whether its time comes from a clock and not from an option."""


def encode_entry(manifest: Manifest) -> bytes:
    """Encode times of a point in microseconds since 1970, flags, its name and its VM's name."""
    flags = _NUMBERED if manifest.time_source is not None else 0
    flags |= 0 if manifest.is_clocked else _GIVEN
    name = manifest.name.encode()
    head = _ENTRY.pack(_ticks(manifest.time), _ticks(manifest.committed), flags, len(name))
    return head + name + manifest.vm.name.encode("utf-8", "surrogatepass")


def decode_entry(order: int, point: PointId, payload: bytes) -> PointEntry:
    try:
        time, committed, flags, length = _ENTRY.unpack_from(payload)
        name = payload[_ENTRY.size : _ENTRY.size + length].decode()
        vm_name = payload[_ENTRY.size + length :].decode("utf-8", "surrogatepass")
        moment = _EPOCH + timedelta(microseconds=time)
    except (struct.error, ValueError, OverflowError) as exc:
        raise CatalogDamaged("corrupt entry in database 'order'") from exc
    return PointEntry(
        order,
        point,
        name,
        vm_name,
        moment,
        committed,
        bool(flags & _NUMBERED),
        not flags & _GIVEN,
    )


def _ticks(moment: str) -> int:
    return (parse_moment(moment) - _EPOCH) // _TICK


_LENGTHS = struct.Struct("<II")
STAMP_BYTES: Final = 24


class PointRecord(NamedTuple):
    """The files of a point, byte for byte, and the stamp of its state file."""

    manifest: bytes
    state: bytes
    stamp: bytes


def encode_point(record: PointRecord) -> bytes:
    lengths = _LENGTHS.pack(len(record.manifest), len(record.state))
    return lengths + record.stamp.ljust(STAMP_BYTES, b"\0") + record.manifest + record.state


def decode_point(payload: bytes) -> PointRecord:
    try:
        manifest, state = _LENGTHS.unpack_from(payload)
    except struct.error as exc:
        raise CatalogDamaged("corrupt entry in database 'points'") from exc
    stamp_end = _LENGTHS.size + STAMP_BYTES
    split = stamp_end + manifest
    return PointRecord(
        payload[stamp_end:split], payload[split : split + state], payload[_LENGTHS.size : stamp_end]
    )
