"""The programs of a history, by the code of the store."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.frame import Kind
from cbtfs.core.ids import Digest, DiskId, PointId, Ref, VmId
from cbtfs.core.manifest import (
    DiskRecord,
    Manifest,
    PointState,
    Vm,
    decode_manifest,
    encode_manifest,
    encode_state,
)
from cbtfs.core.pin import Pin, PinId
from cbtfs.core.shared import RunId
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.prune.result import no_progress
from cbtfs.prune.select import PruneLimits
from cbtfs.prune.shared import SharedPrune
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import PointRecord
from cbtfs.store.codec import Encoder
from cbtfs.store.identity import new_id
from cbtfs.store.packs import PackFolder
from cbtfs.store.pins import pin_listed
from cbtfs.store.shared.looks import Looks
from cbtfs.store.shared.places import Places
from cbtfs.store.shared.presence import BeatPresence, Reading
from cbtfs.store.shared.shared import Shared
from cbtfs.store.writer import ObjectWriter
from tools.model.actor import Actor
from tools.model.real.backend import ModelBackend, World
from tools.model.real.objects import BLOCK, number_of
from tools.model.real.port import Port
from tools.model.record import OpenReader
from tools.model.requests import Choose
from tools.model.store import Prefix

_FANOUT: Final = 64
_BLOCKS: Final = 3 * _FANOUT
"""Blocks of a disk: three leaves below a root, as the model has."""
_TIME: Final = "2026-01-01T00:00:00Z"
_LOOKS: Final = 3


class SeenPresence(BeatPresence):
    """A presence that keeps its last reading, for the checker."""

    reading_now: Reading | None = None

    @contextmanager
    def reading(self, run: RunId, point: PointId) -> Iterator[Reading]:
        with super().reading(run, point) as reading:
            self.reading_now = reading
            yield reading


@dataclass(frozen=True, slots=True)
class RealMachine:
    """The local state of a machine: its catalog and the memory of its prunes."""

    folder: Path
    catalog: Catalog


@dataclass(slots=True)
class _Repository:
    """The parts of a repository that a prune needs."""

    path: Path
    catalog: Catalog
    packs: PackFolder

    def forget_heads(self, points: object) -> None:
        """Do nothing: nobody remembers the newest points."""


class RealProgram:
    """One process of a history."""

    def __init__(self, world: World, machine: RealMachine, actor: Actor, port: Port) -> None:
        self._world = world
        self._machine = machine
        self._actor = actor
        self._port = port
        self._restored = 0

    def _backend(self, prefix: Prefix) -> ModelBackend:
        return ModelBackend(self._world, self._port, prefix)

    def _choose(self, count: int) -> int:
        number: int = self._port.ask(Choose(count))
        return number

    @contextmanager
    def _opened(self) -> Iterator[tuple[Shared, PackFolder, SeenPresence]]:
        looks = Looks(self._machine.folder / "looks.json")
        presence = SeenPresence(self._backend(Prefix.HOLDS), self._backend(Prefix.BEATS), looks)
        places = Places(
            self._backend(Prefix.POINTS),
            self._backend(Prefix.STATES),
            self._backend(Prefix.FORGOTTEN),
            self._backend(Prefix.INTENTS),
            self._backend(Prefix.PRUNES),
            self._backend(Prefix.PINS),
            self._backend(Prefix.STATES),
            presence,
            lambda: looks,
            lambda: None,
        )
        with (
            closing(PackFolder(self._backend(Prefix.PACKS))) as packs,
            closing(Shared(places, self._machine.catalog, packs)) as shared,
        ):
            with self._machine.catalog.view() as view:
                shared.points.trust(view.point_ids(), view.runs)
            yield shared, packs, presence

    def _listed(self, shared: Shared) -> list[tuple[RunId, Manifest]]:
        """Return the listed points, after a catch-up."""
        _, look = shared.follow()
        with self._machine.catalog.view() as view:
            records = {point: view.point(point) for point in look.living}
        return [
            (look.living[point], decode_manifest(record.manifest))
            for point, record in sorted(records.items())
            if record is not None
        ]

    def _root(self, manifest: Manifest) -> int:
        return self._world.contents.number(manifest.disks[0].root)

    # Writers

    def capture(self) -> None:
        self._write(None, None)

    def copy(self, label: int, root: int) -> None:
        self._write(PointId(f"{label:032x}"), root)

    def _write(self, copied: PointId | None, content: int | None) -> None:
        actor, contents = self._actor, self._world.contents
        with self._opened() as (shared, packs, _):
            avoided = shared.announce(1, ())
            objects = ObjectWriter(
                self._machine.catalog,
                packs,
                1,
                pack_bytes=actor.pack_objects * 300,
                avoided=avoided,
                tag=shared.tag,
                is_fenced=shared.is_fenced,
            )
            with closing(objects):
                shared.rescue_bases(objects)
                root = content
                base: dict[int, Ref] = {}
                if root is None:
                    listed = self._listed(shared)
                    chosen = listed[self._choose(len(listed))][1] if listed else None
                    before = None if chosen is None else self._root(chosen)
                    root = actor.new_root(before)
                    if before is not None:
                        base = self._leaves(before)
                self._put(objects, root, base)
                objects.flush()
                if actor.aborts:
                    return
                point = copied
                if point is None:
                    taken = shared.take_run()
                    assert taken is not None
                    point = PointId(taken)
                manifest = self._manifest(point, contents.digest(root))
                state = PointState(manifest.point)
                run = shared.commit(manifest, encode_manifest(manifest), state)
                actor.record.committed(number_of(run), root)
                self._enter(shared, manifest)

    def _enter(self, shared: Shared, manifest: Manifest) -> None:
        state, stamp = shared.points.load_state(manifest.point)
        record = PointRecord(encode_manifest(manifest), encode_state(state), stamp)
        self._machine.catalog.update(lambda update: update.put_point(manifest, record))

    def _leaves(self, root: int) -> dict[int, Ref]:
        """Return the leaves of a base by the references in its node, without a look-up."""
        contents = self._world.contents
        with self._machine.catalog.view() as view:
            number = view.find(Kind.NODE, 2, contents.digest(root))
            if number is None:
                return {}
            node = view.node(number, 2, contents.digest(root))
        refs = [node.child(slot) for slot in range(_FANOUT)]
        return {contents.number(ref.digest): ref for ref in refs if ref is not None}

    def _put(self, objects: ObjectWriter, root: int, base: dict[int, Ref]) -> Ref:
        """Put a root; reuse the leaves of the base."""
        self._world.contents.digest(root)
        forest = self._world.contents.forest
        refs: list[Ref | None] = []
        for leaf in forest.children(root):
            ref = base.get(leaf)
            if ref is None:
                chunks: list[Ref | None] = [
                    self._put_chunk(objects, chunk) for chunk in forest.children(leaf)
                ]
                ref = objects.put_node(1, _padded(chunks)).ref
            refs.append(ref)
        return objects.put_node(2, _padded(refs)).ref

    def _put_chunk(self, objects: ObjectWriter, number: int) -> Ref:
        contents = self._world.contents
        data = contents.chunk(number)
        encoded = Encoder(1).encode(Kind.CHUNK, 0, contents.digest(number), data)
        return objects.put_chunk(encoded).ref

    def _manifest(self, point: PointId, root: Digest) -> Manifest:
        disk = DiskRecord(
            DiskId("d" * 32),
            "disk",
            "disk",
            "disk",
            _BLOCKS * BLOCK,
            BLOCK,
            root,
            1,
            "full",
            "first",
        )
        vm = Vm(VmId("a" * 32), "vm", "vm")
        run = new_id()
        return Manifest(point, vm, 1, _TIME, "t", _TIME, run, "model", "full", "first", (disk,))

    # Points

    def forget(self) -> None:
        with self._opened() as (shared, _, _presence):
            listed = self._listed(shared)
            if listed:
                chosen = listed[self._choose(len(listed))][1].point
                shared.points.forget([chosen])

    def unforget(self) -> None:
        with self._opened() as (shared, _, _presence):
            look = shared.points.look()
            points = sorted(look.forgotten)
            if not points:
                return
            point = points[self._choose(len(points))]
            runs = look.runs_of(point)
            shared.points.unforget([point])
            if len(runs) == 1:
                number = shared.points.log_of(runs[0]).number
                self._actor.record.restored(number_of(runs[0]), self._restored or number)

    def note_restored(self, number: int) -> None:
        """Remember the number of a `restored` entry that this program creates."""
        self._restored = number

    def prune(self) -> None:
        with self._opened() as (shared, packs, _):
            repository = _Repository(self._machine.folder, self._machine.catalog, packs)
            SharedPrune(
                repository,  # type: ignore[arg-type]
                shared,
                PruneLimits(self._choose(2) * 0.3),
                no_progress,
                self._actor.pack_objects * 300,
            ).run(0.0)

    # Readers

    def overlay(self) -> None:
        with self._opened() as (shared, _, _presence):
            listed = self._listed(shared)
            if not listed:
                return
            _, manifest = listed[self._choose(len(listed))]
            pin = Pin(PinId(new_id()), manifest.point, "o", "h", "/", _TIME)
            pin_listed(shared.places.pins, shared.points, pin)
            number = number_of(pin.id)
            self._actor.record.pinned(number, self._root(manifest))
            for _ in range(12):
                self._port.pause()
            del self._actor.record.pins[number]
            shared.places.pins.delete(pin.id)

    def mount(self) -> None:
        actor = self._actor
        with self._opened() as (shared, packs, presence):
            listed = self._listed(shared)
            if not listed:
                return
            _, manifest = listed[self._choose(len(listed))]
            with shared.points.leased(manifest.point):
                reading = presence.reading_now
                assert reading is not None
                root, hold = self._root(manifest), number_of(new_id())
                actor.holds.append(hold)
                actor.record.opened(hold, OpenReader(root, lambda: reading.is_valid))
                for _ in range(8):
                    self._port.pause()
                    self._read(shared, packs, root)
                    reading.renew()  # type: ignore[attr-defined]
                    actor.record.renewed()
                    if not reading.is_valid:
                        break
                actor.record.readers.pop(hold, None)

    def _read(self, shared: Shared, packs: PackFolder, root: int) -> None:
        """Read one object of a tree; look again if it is not where the catalog says."""
        contents = self._world.contents
        objects = sorted(contents.forest.closure(root))
        wanted = objects[self._choose(len(objects))]
        level = contents.level(wanted)
        kind = Kind.NODE if level else Kind.CHUNK
        for _ in range(_LOOKS):
            try:
                with self._machine.catalog.view() as view:
                    number = view.find(kind, level, contents.digest(wanted))
                    location = None if number is None else view.location(number)
                    record = None if location is None else view.pack(location.pack)
                if location is not None and record is not None:
                    packs.open(record.id).load(location.frame)
                    self._actor.record.read(wanted, wanted)
                    return
            except (ChunkMissing, DataCorrupt):
                """It was moved."""
            shared.follow()
        self._actor.record.read(wanted, None)

    def body(self, kind: str, label: int, root: int) -> Callable[[], None]:
        """Return the program of a kind."""
        if kind == "copy":
            return lambda: self.copy(label, root)
        programs: dict[str, Callable[[], None]] = {
            "capture": self.capture,
            "forget": self.forget,
            "unforget": self.unforget,
            "prune": self.prune,
            "overlay": self.overlay,
            "mount": self.mount,
        }
        return programs[kind]


def _padded(refs: list[Ref | None]) -> list[Ref | None]:
    return [*refs, *([None] * (_FANOUT - len(refs)))]
