"""Reads of the catalog within one transaction."""

import json
from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from itertools import compress, islice
from operator import ne
from typing import Any, Final, NamedTuple

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Kind
from cbtfs.core.ids import DIGEST_BYTES, Digest, ObjectId, PackId, PointId, Ref, VmId
from cbtfs.core.manifest import Vm
from cbtfs.core.shared import RunId
from cbtfs.store.catalog.environment import Databases
from cbtfs.store.catalog.records import (
    DIGESTS,
    MAP,
    META,
    OBJECTS,
    ORDER,
    PACKS,
    POINTS,
    PREFIX_BYTES,
    VMS,
    CatalogDamaged,
    Location,
    OtherSchema,
    PackRecord,
    PointEntry,
    PointRecord,
    decode_children,
    decode_entry,
    decode_ids,
    decode_location,
    decode_pack,
    decode_point,
    integer_key,
    integer_keys,
    key_integer,
    location_digest,
    number_key,
    open_children,
    open_value,
)
from cbtfs.store.digest import UNKEYED, Digester

GENERATION = b"generation"
POINTS_VERSION = b"points version"
SCHEMA = b"schema"
SCHEMA_VERSION: Final = 4
POINTS_SCHEMAS: Final = frozenset({3, SCHEMA_VERSION})
"""Schemas whose databases of points and packs have the form of this one. Schema 3 has names of
points, and no times, in its database of their order."""
NEXT_OBJECT = b"next object"
NEXT_PACK = b"next pack"
LEFT_OUT = b"left out"
MISSING = b"missing"
RUNS = b"runs"
"""Runs and points of copies in a repository with shared writers, 16 bytes each."""
UNPROVEN = b"unproven "
"""Followed by the id of a VM."""
_SLOTS: Final = range(FANOUT)
_NO_ENTRIES: Final = (None,) * FANOUT
_ID_BYTES: Final = 16
_PACKS_LOOKED_AT: Final = 4096
"""Enough to include a pack of full size, and read within milliseconds."""


class Node(NamedTuple):
    """A verified node. Locations stay encoded, which takes a tenth of the memory."""

    children: tuple[ObjectId, ...]
    """64 ids; 0 for null."""
    entries: tuple[bytes | None, ...]

    def digests(self, first: int = 0, end: int = FANOUT) -> list[Digest | None]:
        """Return the digests of the children from *first* to *end*; None for null."""
        # A slice and not location_digest(): this takes most of the time of a comparison of trees.
        return [
            None if entry is None else Digest(entry[-DIGEST_BYTES:])
            for entry in self.entries[first:end]
        ]

    def child(self, slot: int) -> Ref | None:
        """Return the reference of child *slot*; None for null."""
        entry = self.entries[slot]
        return None if entry is None else Ref(self.children[slot], location_digest(entry))

    def location(self, slot: int) -> Location | None:
        """Return the location of child *slot*; None for null."""
        entry = self.entries[slot]
        return None if entry is None else decode_location(entry)


def _shared(
    children: tuple[ObjectId, ...], node: Node
) -> tuple[tuple[bytes | None, ...], list[ObjectId]]:
    """Return the entries of *children* that *node* has in the same slots, and the other children.

    The entry of another child is None.
    """
    entries = list(node.entries)
    others = list(compress(_SLOTS, map(ne, children, node.children)))
    for slot in others:
        entries[slot] = None
    return tuple(entries), [children[slot] for slot in others]


@lru_cache(maxsize=4096)
def _decode_vm(payload: bytes) -> Vm:
    """Decode a VM. Cached: each capture reads all VMs, and few of them have changed."""
    return Vm(**json.loads(payload))


@lru_cache(maxsize=16)
def _decode_point_ids(payload: bytes) -> frozenset[PointId]:
    """Decode the missing points. Cached: they are read with every point that is listed."""
    ids = (payload[at : at + _ID_BYTES] for at in range(0, len(payload), _ID_BYTES))
    return frozenset(PointId(point.hex()) for point in ids)


class _Rank(IntEnum):
    """Order of objects with one digest: a larger one is preferred."""

    FOREIGN = 0
    """In a pack of another capture key that no reader has verified."""
    OWN = 1
    VERIFIED = 2


def _rank(record: PackRecord, signer: bytes) -> _Rank:
    if not record.signer:
        return _Rank.VERIFIED
    return _Rank.OWN if record.signer == signer else _Rank.FOREIGN


class _Intact(NamedTuple):
    """An object whose entries are intact."""

    location: Location
    record: PackRecord
    """The pack that has it."""


class View:
    """Reads within one transaction; do not use it after the transaction."""

    def __init__(
        self,
        transaction: Any,
        databases: Databases,
        digester: Digester = UNKEYED,
        signer: bytes = b"",
    ) -> None:
        """*signer* is that of the packs that this process writes, if it has a capture key."""
        self._signer = signer
        self._transaction = transaction
        self._databases = databases
        self._digester = digester

    def _get(self, database: bytes, key: bytes) -> bytes | None:
        value = self._transaction.get(key, db=self._databases[database])
        return None if value is None else open_value(database, key, value)

    def _items(self, database: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys from *start* on, with their payloads."""
        cursor = self._transaction.cursor(self._databases[database])
        if cursor.set_range(start) if start else cursor.first():
            for key, value in cursor:
                yield key, open_value(database, key, value)

    # Objects

    def location(self, number: ObjectId) -> Location | None:
        payload = self._get(OBJECTS, integer_key(number))
        return None if payload is None else decode_location(payload)

    def locations(self, numbers: Sequence[ObjectId]) -> dict[ObjectId, Location]:
        """Return the locations of those *numbers* that are known."""
        cursor = self._transaction.cursor(self._databases[OBJECTS])
        entries = cursor.getmulti(sorted({integer_key(number) for number in numbers}))
        return {
            ObjectId(key_integer(key)): decode_location(open_value(OBJECTS, key, value))
            for key, value in entries
        }

    def all_locations(self) -> Iterator[tuple[ObjectId, Location]]:
        for key, payload in self._items(OBJECTS):
            yield ObjectId(key_integer(key)), decode_location(payload)

    def locations_from(self, number: int) -> Iterator[tuple[ObjectId, Location]]:
        """Yield objects with ids from *number* on, ascending."""
        for key, payload in self._items(OBJECTS, integer_key(number)):
            yield ObjectId(key_integer(key)), decode_location(payload)

    def locations_below(self, number: int) -> Iterator[tuple[ObjectId, Location]]:
        """Yield objects with ids below *number*, descending: nodes before their children."""
        cursor = self._transaction.cursor(self._databases[OBJECTS])
        is_there = cursor.prev() if cursor.set_range(integer_key(number)) else cursor.last()
        if is_there:
            for key, value in cursor.iterprev():
                yield (
                    ObjectId(key_integer(key)),
                    decode_location(open_value(OBJECTS, key, value)),
                )

    def children(self, node: ObjectId) -> tuple[ObjectId, ...]:
        """Return 64 ids, 0 for null; CatalogDamaged if the node has no entry."""
        payload = self._get(MAP, integer_key(node))
        if payload is None:
            raise CatalogDamaged(f"node {node} has no children")
        return decode_children(payload)

    def all_children(self) -> Iterator[tuple[ObjectId, tuple[ObjectId, ...]]]:
        """Yield nodes in order of their ids: children before the nodes above them."""
        for key, payload in self._items(MAP):
            yield ObjectId(key_integer(key)), decode_children(payload)

    def children_from(self, number: int) -> Iterator[tuple[ObjectId, tuple[ObjectId, ...]]]:
        """Yield nodes with ids from *number* on, in order of their ids."""
        for key, payload in self._items(MAP, integer_key(number)):
            yield ObjectId(key_integer(key)), decode_children(payload)

    def has_all(self, numbers: Collection[ObjectId]) -> bool:
        """Return whether all objects with these ids are known."""
        cursor = self._transaction.cursor(self._databases[OBJECTS])
        keys = {integer_key(number) for number in numbers}
        return len(cursor.getmulti(sorted(keys))) == len(keys)

    def node(self, number: ObjectId, level: int, digest: Digest, like: Node | None = None) -> Node:
        """Return node *number* after its *digest* was recomputed from those of its children.

        A root that is loaded like this proves its whole subtree and every absent block. Entries of
        children that *like* has in the same slots are taken from it: versions of a node share most.

        Raises:
            CatalogDamaged: a child is unknown, or the digest does not match.
        """
        children = self.children(number)
        known, others = (_NO_ENTRIES, children) if like is None else _shared(children, like)
        keys = integer_keys([child for child in others if child])
        cursor = self._transaction.cursor(self._databases[OBJECTS])
        try:
            entries, content = open_children(children, known, cursor.getmulti(keys))
        except KeyError as exc:
            raise CatalogDamaged(f"a child of node {number} is not in objects") from exc
        if self._digester.object(Kind.NODE, level, content) != digest:
            raise CatalogDamaged(f"the children of node {number} do not match its digest")
        return Node(children, entries)

    def find(
        self, kind: Kind, level: int, digest: Digest, signer: bytes | None = None
    ) -> ObjectId | None:
        """Return the object with this digest, if all its entries are intact; else None.

        An object with a damaged entry counts as unknown, so that it is stored again. Of several, it
        is one in a pack that a reader wrote or verified, or else in a pack of *signer*, by default
        that of this process.
        """
        found = self._best(kind, level, digest, self._signer if signer is None else signer)
        return None if found is None else found[1]

    def find_counted(
        self, kind: Kind, level: int, digest: Digest, signer: bytes
    ) -> ObjectId | None:
        """Return the object that counts as stored for a writer whose packs have this *signer*.

        That is one in a pack of that signer, or in one that a reader wrote or verified.
        """
        found = self._best(kind, level, digest, signer)
        return None if found is None or found[0] is _Rank.FOREIGN else found[1]

    def find_all(self, kind: Kind, level: int, digest: Digest) -> list[ObjectId]:
        """Return all objects with this digest whose entries are intact.

        Writers that work at once may store an object twice.
        """
        return [
            n for n in self._numbers(digest) if self._intact(n, kind, level, digest) is not None
        ]

    def find_at(
        self, kind: Kind, level: int, digest: Digest, pack: int, offset: int
    ) -> ObjectId | None:
        """Return the object with this digest that is located there, if its entries are intact."""
        for number in self._numbers(digest):
            intact = self._intact(number, kind, level, digest)
            if intact is None:
                continue
            location = intact.location
            if (location.pack, location.frame.offset) == (pack, offset):
                return number
        return None

    def _numbers(self, digest: Digest) -> Sequence[ObjectId]:
        """Return the objects whose digest may be this one."""
        try:
            payload = self._get(DIGESTS, digest[:PREFIX_BYTES])
        except CatalogDamaged:
            return ()
        return () if payload is None else decode_ids(payload)

    def _best(
        self, kind: Kind, level: int, digest: Digest, signer: bytes
    ) -> tuple[_Rank, ObjectId] | None:
        """Return the object of the best rank, the newest one if there are several."""
        best = None
        for number in self._numbers(digest):
            intact = self._intact(number, kind, level, digest)
            if intact is not None:
                found = _rank(intact.record, signer), number
                best = found if best is None else max(best, found)
        return best

    def _intact(self, number: ObjectId, kind: Kind, level: int, digest: Digest) -> _Intact | None:
        """Return an object's location and pack if it has this digest and intact entries."""
        try:
            location = self.location(number)
            if location is None or location.frame.digest != digest:
                return None
            if location.frame.kind is not kind or location.frame.level != level:
                return None
            if kind is Kind.NODE and self._get(MAP, integer_key(number)) is None:
                return None
            record = self.pack(location.pack)
            return None if record is None else _Intact(location, record)
        except CatalogDamaged:
            return None

    # Packs

    def pack(self, number: int) -> PackRecord | None:
        payload = self._get(PACKS, number_key(number))
        return None if payload is None else decode_pack(payload)

    def packs(self) -> dict[int, PackRecord]:
        return {int.from_bytes(key, "big"): decode_pack(value) for key, value in self._items(PACKS)}

    def find_pack(self, pack: PackId, since: int) -> int | None:
        """Return the number of a pack if it has one that is at least *since*."""
        for key, value in self._items(PACKS, number_key(since)):
            if decode_pack(value).id == pack:
                return int.from_bytes(key, "big")
        return None

    def next_pack(self) -> int:
        """Return the number of the next new pack."""
        return max(int.from_bytes(self.meta(NEXT_PACK), "big"), 1)

    def largest_pack(self) -> int:
        """Return the largest size in bytes of the first few thousand packs; 0 without packs."""
        some = islice(self._items(PACKS), _PACKS_LOOKED_AT)
        return max((decode_pack(value).size for _, value in some), default=0)

    def unverified_packs(self, signer: bytes = b"") -> dict[int, PackRecord]:
        """Return the unverified packs of capture keys, without those of *signer*."""
        return {
            n: record for n, record in self.packs().items() if record.signer not in (b"", signer)
        }

    def pack_numbers(self) -> dict[PackId, int]:
        return {record.id: number for number, record in self.packs().items()}

    # Points

    def point(self, point: PointId) -> PointRecord | None:
        payload = self._get(POINTS, bytes.fromhex(point))
        return None if payload is None else decode_point(payload)

    def points(self) -> Iterator[tuple[PointId, PointRecord]]:
        """Yield all points in arbitrary order."""
        for key, payload in self._items(POINTS):
            yield PointId(key.hex()), decode_point(payload)

    def point_ids(self, prefix: str = "") -> list[PointId]:
        """Return the points whose id starts with *prefix*."""
        start = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
        cursor = self._transaction.cursor(self._databases[POINTS])
        points = []
        if cursor.set_range(start) if start else cursor.first():
            for key in cursor.iternext(keys=True, values=False):
                if not key.startswith(start):
                    break
                if key.hex().startswith(prefix):
                    points.append(PointId(key.hex()))
        return points

    @property
    def missing(self) -> frozenset[PointId]:
        """Points with neither a manifest nor a forgotten one when the catalog was last updated."""
        return _decode_point_ids(self.meta(MISSING))

    @property
    def runs(self) -> dict[RunId, PointId]:
        """The runs whose point has another id, in a repository with shared writers."""
        data = self.meta(RUNS).hex()
        pairs = (data[at : at + 64] for at in range(0, len(data), 64))
        return {RunId(pair[:32]): PointId(pair[32:]) for pair in pairs}

    def unproven_order(self, vm: VmId) -> int:
        """Return the order number of *vm* after which points may be unknown; -1 without such a gap.

        If another program or catalog committed a point, this catalog does not know whether a later
        point was committed and lost.
        """
        order = self.meta(UNPROVEN + bytes.fromhex(vm))
        return int.from_bytes(order, "big") if order else -1

    def vms(self) -> dict[VmId, Vm]:
        """Return every VM that has points, as its newest point describes it."""
        return {VmId(key.hex()): _decode_vm(value) for key, value in self._items(VMS)}

    def points_of(self, vm: VmId, *, newest_first: bool = False) -> Iterator[tuple[int, PointId]]:
        """Yield order number and id of each point of *vm*."""
        for order, point, _ in self._ordered(vm, newest_first=newest_first):
            yield order, point

    def entries_of(self, vm: VmId) -> Iterator[PointEntry]:
        """Yield names and times of each point of *vm*, in order of capture."""
        for order, point, payload in self._ordered(vm):
            yield decode_entry(order, point, payload)

    def newest_entry(self, vm: VmId) -> PointEntry | None:
        """Return the entry of the newest point of *vm*; None if it has no point."""
        for order, point, payload in self._ordered(vm, newest_first=True):
            return decode_entry(order, point, payload)
        return None

    def names_of(self, vm: VmId) -> Iterator[tuple[str, PointId]]:
        """Yield name in the mount and id of each point of *vm*, in order of capture."""
        for entry in self.entries_of(vm):
            yield entry.name, entry.point

    def _ordered(
        self, vm: VmId, *, newest_first: bool = False
    ) -> Iterator[tuple[int, PointId, bytes]]:
        prefix = bytes.fromhex(vm)
        cursor = self._transaction.cursor(self._databases[ORDER])
        if newest_first:
            after = cursor.set_range(prefix + b"\xff" * 24)
            has_entries = cursor.prev() if after else cursor.last()
            entries = cursor.iterprev()
        else:
            has_entries = cursor.set_range(prefix)
            entries = cursor.iternext()
        if not has_entries:
            return
        for key, value in entries:
            if not key.startswith(prefix):
                return
            payload = open_value(ORDER, key, value)
            yield int.from_bytes(key[16:24], "big"), PointId(key[24:].hex()), payload

    # Numbers

    def meta(self, key: bytes) -> bytes:
        """Return a value of META; empty if it is absent."""
        return self._get(META, key) or b""

    @property
    def schema(self) -> int:
        """Schema of the values; that of this program in an empty catalog."""
        return int.from_bytes(self.meta(SCHEMA), "big") or SCHEMA_VERSION

    def require_schema(self, schemas: Collection[int] = (SCHEMA_VERSION,)) -> None:
        """Raise OtherSchema unless the schema is one of *schemas*."""
        if self.schema not in schemas:
            raise OtherSchema(self.schema)

    @property
    def generation(self) -> bytes:
        """Random bytes; if they change, ids may refer to other objects."""
        return self.meta(GENERATION)

    @property
    def points_version(self) -> bytes:
        """Random bytes that change when a point is added, removed or changes its state."""
        return self.meta(POINTS_VERSION)

    def count_damaged(self, database: bytes) -> int:
        """Return the number of entries that fail their checksum."""
        count = 0
        for key, value in self._transaction.cursor(self._databases[database]):
            try:
                open_value(database, key, value)
            except CatalogDamaged:
                count += 1
        return count

    def next_object(self) -> int:
        """Return the next free object id, which is larger than every id ever used."""
        known = int.from_bytes(self.meta(NEXT_OBJECT), "big")
        return max(known, self.last_number(OBJECTS) + 1, self.last_number(MAP) + 1)

    @property
    def is_incomplete(self) -> bool:
        """Whether nodes of known packs were left out because a child was absent."""
        return bool(self.meta(LEFT_OUT))

    @property
    def may_be_completed(self) -> bool:
        """Whether packs were added since nodes were left out."""
        return self.is_incomplete and self.meta(LEFT_OUT) != self.meta(NEXT_PACK)

    def count(self, database: bytes) -> int:
        """Return the number of entries of a database."""
        entries: int = self._transaction.stat(self._databases[database])["entries"]
        return entries

    def last_number(self, database: bytes) -> int:
        """Return the largest key of an integer database; 0 if it is empty."""
        cursor = self._transaction.cursor(self._databases[database])
        return key_integer(cursor.key()) if cursor.last() else 0
