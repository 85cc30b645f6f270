"""Changes of the catalog within one write transaction."""

import json
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from cbtfs.core.frame import Frame
from cbtfs.core.ids import ObjectId, PackId, PointId, VmId
from cbtfs.core.manifest import Manifest, decode_manifest
from cbtfs.core.shared import RunId
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
    PackRecord,
    PointRecord,
    close_value,
    decode_ids,
    encode_children,
    encode_entry,
    encode_ids,
    encode_location,
    encode_pack,
    encode_point,
    integer_key,
    number_key,
)
from cbtfs.store.catalog.view import (
    GENERATION,
    LEFT_OUT,
    MISSING,
    NEXT_OBJECT,
    NEXT_PACK,
    POINTS_VERSION,
    RUNS,
    SCHEMA,
    SCHEMA_VERSION,
    UNPROVEN,
    View,
)


class NewObject(NamedTuple):
    """An object of a closed pack, with its new id."""

    number: ObjectId
    frame: Frame
    children: Sequence[ObjectId] | None
    """64 ids for a node, None for a chunk."""


class Update(View):
    """Reads and changes the catalog; takes effect when the transaction is committed."""

    def _put(self, database: bytes, key: bytes, payload: bytes) -> None:
        value = close_value(database, key, payload)
        self._transaction.put(key, value, db=self._databases[database])

    def _append(self, database: bytes, key: bytes, payload: bytes) -> None:
        """Insert at the end; a key that is not the largest was used before, which is a bug."""
        value = close_value(database, key, payload)
        if not self._transaction.put(key, value, db=self._databases[database], append=True):
            raise CatalogDamaged(f"an id of {database.decode()} was used before")

    def _delete(self, database: bytes, key: bytes) -> None:
        self._transaction.delete(key, db=self._databases[database])

    def set_up(self) -> None:
        """Give an empty catalog its schema and generation."""
        self.require_schema()
        if not self.meta(SCHEMA):
            self._put(META, SCHEMA, number_key(SCHEMA_VERSION))
            self.renew_generation()

    def renew_generation(self) -> None:
        self._put(META, GENERATION, secrets.token_bytes(16))

    # Objects

    def add_pack(self, pack: PackId, size: int, objects: int, signer: bytes = b"") -> int:
        """Add a closed pack; return its number. *signer* is that of its PackRecord."""
        number = self.next_pack()
        self._put(PACKS, number_key(number), encode_pack(PackRecord(pack, size, objects, signer)))
        self._put(META, NEXT_PACK, number_key(number + 1))
        return number

    def set_verified(self, number: int) -> None:
        """Record that a reader has verified a pack: all writers count its frames from now on."""
        record = self.pack(number)
        if record is not None:
            self._put(PACKS, number_key(number), encode_pack(record._replace(signer=b"")))

    def drop_pack(self, number: int) -> None:
        self._delete(PACKS, number_key(number))

    def add_objects(self, pack: int, objects: Sequence[NewObject]) -> None:
        """Add objects of pack number *pack*; their ids ascend from next_object()."""
        if not objects:
            return
        for new in objects:
            key = integer_key(new.number)
            self._append(OBJECTS, key, encode_location(Location(pack, new.frame)))
            if new.children is not None:
                self._append(MAP, key, encode_children(new.children))
        # Ordered by digest, so that neighbours in the B-tree are written together.
        for new in sorted(objects, key=lambda new: new.frame.digest):
            self._add_digest(new)
        self._put(META, NEXT_OBJECT, number_key(objects[-1].number + 1))

    def _add_digest(self, new: NewObject) -> None:
        key = new.frame.digest[:PREFIX_BYTES]
        try:
            payload = self._get(DIGESTS, key) or b""
        except CatalogDamaged:
            payload = b""
        self._put(DIGESTS, key, payload + encode_ids([new.number]))

    def move_object(self, number: ObjectId, location: Location) -> None:
        """Replace the location of an object; the frame there must have its digest."""
        self._put(OBJECTS, integer_key(number), encode_location(location))

    def drop_objects(self, objects: Iterable[tuple[ObjectId, Location]]) -> None:
        """Remove objects and their digests."""
        for number, location in objects:
            key = location.frame.digest[:PREFIX_BYTES]
            others = [n for n in decode_ids(self._get(DIGESTS, key) or b"") if n != number]
            if others:
                self._put(DIGESTS, key, encode_ids(others))
            else:
                self._delete(DIGESTS, key)
            self._delete(OBJECTS, integer_key(number))
            self._delete(MAP, integer_key(number))

    def keep_numbers(self) -> None:
        """Record the next free id before objects are dropped, so that no id is used twice."""
        self._put(META, NEXT_OBJECT, number_key(self.next_object()))

    def set_incomplete(self, is_incomplete: bool) -> None:
        """Record whether nodes of the known packs are left out."""
        self._put(META, LEFT_OUT, self.meta(NEXT_PACK) if is_incomplete else b"")

    # Points

    def put_point(self, manifest: Manifest, record: PointRecord) -> None:
        """Add a committed point, or replace its state."""
        vm = bytes.fromhex(manifest.vm.id)
        point = bytes.fromhex(manifest.point)
        self._put(POINTS, point, encode_point(record))
        self._put(ORDER, vm + number_key(manifest.order) + point, encode_entry(manifest))
        newest, _ = next(self.points_of(manifest.vm.id, newest_first=True))
        if newest == manifest.order:
            self._put(VMS, vm, json.dumps(asdict(manifest.vm)).encode())
        self._points_changed()

    def drop_point(self, manifest: Manifest) -> None:
        """Remove a point, and its VM with the last point."""
        vm = bytes.fromhex(manifest.vm.id)
        point = bytes.fromhex(manifest.point)
        self._delete(POINTS, point)
        self._delete(ORDER, vm + number_key(manifest.order) + point)
        newest = next(self.points_of(manifest.vm.id, newest_first=True), None)
        if newest is None or newest[0] < manifest.order:  # The entry of the VM was from this point.
            record = None if newest is None else self.point(newest[1])
            if record is None:
                self._delete(VMS, vm)
            else:
                left = decode_manifest(record.manifest)
                self._put(VMS, vm, json.dumps(asdict(left.vm)).encode())
        self._points_changed()

    def set_missing(self, points: Collection[PointId]) -> None:
        """Record the points that have neither a manifest nor a forgotten one."""
        self._put(META, MISSING, b"".join(map(bytes.fromhex, sorted(points))))
        self._points_changed()

    def add_runs(self, runs: Mapping[RunId, PointId]) -> None:
        """Record runs whose point has another id."""
        known = self.runs
        if not runs.items() <= known.items():
            pairs = sorted({**known, **runs}.items())
            self._put(META, RUNS, b"".join(bytes.fromhex(run + point) for run, point in pairs))

    def set_unproven(self, vm: VmId, order: int) -> None:
        """Record that points of *vm* after *order* may be lost without a trace."""
        self._put(META, UNPROVEN + bytes.fromhex(vm), number_key(order))

    def _points_changed(self) -> None:
        self._put(META, POINTS_VERSION, secrets.token_bytes(8))
