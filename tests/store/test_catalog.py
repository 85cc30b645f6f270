"""The catalog: values with checksums, a map that grows, ids that are used once."""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Codec, Frame, Kind
from cbtfs.core.ids import Digest, ObjectId, VmId
from cbtfs.core.manifest import Manifest, Vm, encode_manifest, encode_state, unknown_state
from cbtfs.errors import CbtfsError, OutOfResources, StoreFailed
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.environment import LOCK
from cbtfs.store.catalog.records import (
    DATABASES,
    DIGESTS,
    INTEGER_KEYS,
    MAP,
    OBJECTS,
    CatalogDamaged,
    Location,
    PackRecord,
    PointRecord,
    close_value,
    decode_children,
    decode_ids,
    decode_location,
    decode_pack,
    decode_point,
    encode_children,
    encode_ids,
    encode_location,
    encode_pack,
    encode_point,
    key_integer,
    open_value,
)
from cbtfs.store.catalog.update import NewObject, Update
from cbtfs.store.identity import new_id, new_pack_id, new_point_id, new_vm_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "catalog"


@pytest.fixture
def catalog(folder: Path) -> Iterator[Catalog]:
    opened = Catalog(folder, is_writable=True)
    yield opened
    opened.close()


def digest(number: int) -> Digest:
    return Digest(random.Random(number).randbytes(32))


def chunk(number: int) -> NewObject:
    frame = Frame(32 + 200 * number, 100, 4096, Kind.CHUNK, 0, Codec.ZSTD, digest(number))
    return NewObject(ObjectId(number), frame, None)


def node(number: int, *children: int) -> NewObject:
    frame = Frame(32 + 200 * number, 100, 2048, Kind.NODE, 1, Codec.ZSTD, digest(number))
    ids = [ObjectId(child) for child in children] + [ObjectId(0)] * (FANOUT - len(children))
    return NewObject(ObjectId(number), frame, ids)


def add(catalog: Catalog, *objects: NewObject) -> None:
    pack = new_pack_id()
    catalog.update(
        lambda update: update.add_objects(update.add_pack(pack, 10_000, len(objects)), objects)
    )


def manifest(vm: Vm, order: int) -> Manifest:
    moment = "2026-01-01T00:00:00Z"
    name = f"name-{order}"
    return Manifest(
        new_point_id(), vm, order, moment, name, moment, new_id(), "tests", "full", "", ()
    )


def put_point(catalog: Catalog, point: Manifest) -> None:
    state = encode_state(unknown_state(point.point))
    record = PointRecord(encode_manifest(point), state, b"")
    catalog.update(lambda update: update.put_point(point, record))


# Values


def test_the_checksum_covers_every_bit_of_a_value() -> None:
    value = close_value(b"objects", b"key", b"some payload")
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(CatalogDamaged, match="checksum"):
            open_value(b"objects", b"key", bytes(flipped))


@pytest.mark.parametrize(("database", "key"), [(b"objects", b"other"), (b"map", b"key")])
def test_a_value_is_valid_only_under_its_own_key(database: bytes, key: bytes) -> None:
    value = close_value(b"objects", b"key", b"some payload")

    with pytest.raises(CatalogDamaged, match="checksum"):
        open_value(database, key, value)


@pytest.mark.parametrize("value", [b"", b"x", b"xyz", b"\0\0\0\0"])
def test_a_value_too_short_is_damaged(value: bytes) -> None:
    with pytest.raises(CatalogDamaged, match="checksum"):
        open_value(b"objects", b"key", value)


@pytest.mark.parametrize("present", [[], [0], [63], [5, 6, 40], list(range(64))])
def test_children_round_trip(present: list[int]) -> None:
    children = tuple(ObjectId(1000 + n if n in present else 0) for n in range(FANOUT))

    assert decode_children(encode_children(children)) == children


@pytest.mark.parametrize("reach", [1, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, 1 << 62])
def test_distant_children_round_trip(reach: int) -> None:
    children = (ObjectId(9), *[ObjectId(0)] * (FANOUT - 2), ObjectId(9 + reach))

    assert decode_children(encode_children(children)) == children


CHILDREN = st.lists(st.just(0) | st.integers(1, 200) | st.integers(1, 1 << 50), max_size=FANOUT)


@given(CHILDREN, st.integers(0, FANOUT))
def test_any_children_round_trip(ids: list[int], run: int) -> None:
    padded = [*ids, *range(1 << 40, (1 << 40) + run), *[0] * FANOUT][:FANOUT]
    children = tuple(map(ObjectId, padded))

    assert decode_children(encode_children(children)) == children


def test_children_that_were_written_together_take_one_number() -> None:
    together = [ObjectId(1000 + n) for n in range(FANOUT)]
    one_is_new = [*together[:7], ObjectId(5000), *together[8:]]

    assert len(encode_children(together)) < len(encode_children(one_is_new)) < 40


@given(st.lists(st.integers(0, 1 << 62).map(ObjectId), max_size=5))
def test_any_ids_round_trip(ids: list[ObjectId]) -> None:
    assert decode_ids(encode_ids(ids)) == tuple(ids)


@pytest.mark.parametrize("payload", [b"\x80", b"\x01\xff", b"\xff" * 9 + b"\x7f"])
def test_ids_that_do_not_end_are_damaged(payload: bytes) -> None:
    with pytest.raises(CatalogDamaged, match="digests"):
        decode_ids(payload)


def test_records_round_trip() -> None:
    location = Location(7, chunk(3).frame)
    pack = PackRecord(new_pack_id(), 1 << 40, 9)
    point = PointRecord(b"manifest", b"state", b"m" * 24)

    assert decode_location(encode_location(location)) == location
    assert decode_pack(encode_pack(pack)) == pack
    assert decode_point(encode_point(point)) == point


@pytest.mark.parametrize("decode", [decode_location, decode_pack, decode_point, decode_children])
def test_a_record_cut_short_is_damage(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(CatalogDamaged):
        decode(b"abc")


def test_a_flipped_bit_of_any_value_in_the_file_is_found(catalog: Catalog, folder: Path) -> None:
    add(catalog, chunk(1), chunk(2), node(3, 1, 2))
    put_point(catalog, manifest(Vm(new_vm_id(), "web", "web"), 1))
    catalog.close()
    rng = random.Random(3)
    for name in DATABASES:
        flip_first_value(folder, name, rng)
    opened = Catalog(folder, is_writable=False)

    with opened.view() as view:
        for name in DATABASES:
            with pytest.raises(CatalogDamaged, match=name.decode()):
                list(view._items(name))
    opened.close()


def flip_first_value(folder: Path, name: bytes, rng: random.Random) -> None:
    with lmdb.open(str(folder), max_dbs=len(DATABASES), lib_version=0) as raw:
        database = raw.open_db(name, integerkey=name in INTEGER_KEYS)
        with raw.begin(db=database, write=True) as transaction, transaction.cursor() as cursor:
            assert cursor.first()
            value = bytearray(cursor.value())
            bit = rng.randrange(len(value) * 8)
            value[bit // 8] ^= 1 << bit % 8
            transaction.put(cursor.key(), bytes(value))


# Objects


def test_an_object_is_found_by_its_whole_digest_kind_and_level(catalog: Catalog) -> None:
    add(catalog, chunk(1), node(2, 1))
    near = Digest(digest(1)[:8] + bytes(24))

    with catalog.view() as view:
        assert view.find(Kind.CHUNK, 0, digest(1)) == 1
        assert view.find(Kind.NODE, 1, digest(2)) == 2
        assert view.find(Kind.NODE, 2, digest(2)) is None
        assert view.find(Kind.NODE, 1, digest(1)) is None
        assert view.find(Kind.CHUNK, 0, near) is None


def test_digests_with_the_same_prefix_are_distinct(catalog: Catalog) -> None:
    twin = Digest(digest(1)[:8] + b"t" * 24)
    add(catalog, chunk(1), chunk(2)._replace(frame=chunk(2).frame._replace(digest=twin)))

    with catalog.view() as view:
        assert view.find(Kind.CHUNK, 0, digest(1)) == 1
        assert view.find(Kind.CHUNK, 0, twin) == 2


def test_an_object_whose_pack_is_not_known_is_not_found(catalog: Catalog) -> None:
    add(catalog, chunk(1))
    catalog.update(lambda update: update.drop_pack(1))

    with catalog.view() as view:
        assert view.find(Kind.CHUNK, 0, digest(1)) is None


def test_a_node_without_its_children_is_not_found(catalog: Catalog) -> None:
    add(catalog, chunk(1), node(2, 1)._replace(children=None))

    with catalog.view() as view:
        assert view.find(Kind.NODE, 1, digest(2)) is None


@pytest.mark.parametrize("number", [1, 2])
def test_an_id_is_used_once(catalog: Catalog, number: int) -> None:
    add(catalog, chunk(1), chunk(2))

    with pytest.raises(CatalogDamaged, match="used before"):
        add(catalog, chunk(number))


def test_an_update_that_fails_changes_nothing(catalog: Catalog) -> None:
    add(catalog, chunk(1), chunk(2))
    with pytest.raises(CatalogDamaged):
        add(catalog, chunk(3), chunk(2))

    with catalog.view() as view:
        assert view.location(ObjectId(3)) is None
        assert len(view.packs()) == 1


def test_dropped_ids_are_not_reused(catalog: Catalog) -> None:
    add(catalog, chunk(1), chunk(2))

    def drop(update: Update) -> int:
        update.keep_numbers()
        update.drop_objects(list(update.all_locations()))
        return update.next_object()

    assert catalog.update(drop) == 3


def test_dropped_objects_leave_no_entries(catalog: Catalog) -> None:
    objects = [chunk(1), chunk(2), node(3, 1, 2)]
    add(catalog, *objects)
    with catalog.view() as view:
        places = [(new.number, view.location(new.number)) for new in objects]
    catalog.update(
        lambda update: update.drop_objects([(n, place) for n, place in places if place is not None])
    )

    with catalog.view() as view:
        counts = [view.count(name) for name in (OBJECTS, MAP, DIGESTS)]
    assert counts == [0, 0, 0]


def test_of_digests_with_one_prefix_only_the_dropped_one_goes(catalog: Catalog) -> None:
    first = chunk(1)
    other = Digest(first.frame.digest[:-1] + bytes([first.frame.digest[-1] ^ 1]))
    second = NewObject(ObjectId(2), first.frame._replace(digest=other), None)
    add(catalog, first, second)
    with catalog.view() as view:
        place = view.location(first.number)
    assert place is not None
    catalog.update(lambda update: update.drop_objects([(first.number, place)]))

    with catalog.view() as view:
        assert view.find(Kind.CHUNK, 0, first.frame.digest) is None
        assert view.find(Kind.CHUNK, 0, other) == second.number
        assert [view.count(name) for name in (OBJECTS, DIGESTS)] == [1, 1]


@pytest.mark.parametrize("is_there", [True, False])
def test_all_of_the_lock_is_on_the_storage(folder: Path, is_there: bool) -> None:
    """LMDB writes the file through a memory map: a missing block kills the process."""
    lock = folder / LOCK
    if is_there:
        Catalog(folder, is_writable=True).close()
        lock.write_bytes(b"")
        os.truncate(lock, 1 << 16)
        assert lock.stat().st_blocks == 0
    opened = Catalog(folder, is_writable=True)

    facts = lock.stat()
    opened.close()
    assert facts.st_blocks * 512 >= facts.st_size > 0


def test_a_lock_without_space_is_an_error_and_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog(folder, is_writable=True).close()
    lock = folder / LOCK
    lock.write_bytes(b"")

    def fail(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", fail)
    with pytest.raises(StoreFailed, match="No space left"):
        Catalog(folder, is_writable=True)
    lock.unlink()
    with pytest.raises(StoreFailed, match="No space left"):
        Catalog(folder, is_writable=True)


def test_a_node_is_checked_against_its_digest(catalog: Catalog) -> None:
    add(catalog, chunk(1), node(2, 1))

    with catalog.view() as view, pytest.raises(CatalogDamaged, match="do not match its digest"):
        view.node(ObjectId(2), 1, digest(2))


def test_a_node_whose_child_is_unknown_is_damage(catalog: Catalog) -> None:
    add(catalog, node(2, 1))

    with catalog.view() as view, pytest.raises(CatalogDamaged, match="not in objects"):
        view.node(ObjectId(2), 1, digest(2))


# Points


def test_points_of_a_vm_come_in_their_order(catalog: Catalog) -> None:
    vms = sorted((Vm(new_vm_id(), "vm", "vm") for _ in range(3)), key=lambda vm: vm.id)
    orders = [300, 2, 1 << 40, 1, 256, 255]
    for order in orders:
        for vm in vms:
            put_point(catalog, manifest(vm, order))

    with catalog.view() as view:
        for vm in vms:
            assert [order for order, _ in view.points_of(vm.id)] == sorted(orders)
            newest = [order for order, _ in view.points_of(vm.id, newest_first=True)]
            assert newest == sorted(orders, reverse=True)


def test_a_vm_without_points_has_none(catalog: Catalog) -> None:
    put_point(catalog, manifest(Vm(new_vm_id(), "vm", "vm"), 1))

    with catalog.view() as view:
        for vm in (VmId("0" * 32), VmId("f" * 32), new_vm_id()):
            assert list(view.points_of(vm)) == []


def test_a_vm_has_the_name_of_its_newest_point(catalog: Catalog) -> None:
    vm = new_vm_id()
    points = [manifest(Vm(vm, name, "web"), order) for order, name in ((2, "new"), (1, "old"))]
    for point in points:
        put_point(catalog, point)
    with catalog.view() as view:
        assert view.vms()[vm].name == "new"

    catalog.update(lambda update: update.drop_point(points[0]))
    with catalog.view() as view:
        assert view.vms()[vm].name == "old"


def test_a_point_is_found_by_any_prefix_of_its_id(catalog: Catalog) -> None:
    points = [manifest(Vm(new_vm_id(), "vm", "vm"), 1) for _ in range(20)]
    for point in points:
        put_point(catalog, point)

    with catalog.view() as view:
        for length in range(33):
            prefix = points[0].point[:length]
            expected = {p.point for p in points if p.point.startswith(prefix)}
            assert set(view.point_ids(prefix)) == expected


# The file


def test_a_map_that_is_full_grows(folder: Path) -> None:
    catalog = Catalog(folder, is_writable=True, map_bytes=1 << 18)
    add(catalog, *[chunk(number) for number in range(1, 20_000)])

    with catalog.view() as view:
        assert view.find(Kind.CHUNK, 0, digest(19_999)) == 19_999
    assert (folder / gate.DATA).stat().st_size > 1 << 20
    catalog.close()


def test_a_reader_follows_a_map_that_grew(folder: Path) -> None:
    Catalog(folder, is_writable=True, map_bytes=1 << 18).close()
    reader = Catalog(folder, is_writable=False, map_bytes=1 << 18)
    script = (
        "import sys; from pathlib import Path; from tests.store.test_catalog import *\n"
        "catalog = Catalog(Path(sys.argv[1]), is_writable=True, map_bytes=1 << 18)\n"
        "add(catalog, *[chunk(number) for number in range(1, 10_000)])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)

    with reader.view() as view:
        assert view.find(Kind.CHUNK, 0, digest(9_999)) == 9_999
    assert not reader.is_replaced()
    reader.close()


@pytest.mark.parametrize("megabytes", [700, 2000])
def test_little_address_space_is_enough(folder: Path, megabytes: int) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from tests.store.test_catalog import *\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20,) * 2)\n"
        "catalog = Catalog(Path(sys.argv[1]), is_writable=True)\n"
        "add(catalog, *[chunk(number) for number in range(1, 2_000)])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def test_a_catalog_put_in_its_place_is_noticed(catalog: Catalog, folder: Path) -> None:
    assert not catalog.is_replaced()
    copy = folder / "copy"
    copy.write_bytes((folder / gate.DATA).read_bytes())
    os.replace(copy, folder / gate.DATA)

    assert catalog.is_replaced()
    catalog.reopen()
    assert not catalog.is_replaced()


def put_in_place(folder: Path, *objects: NewObject) -> None:
    """Put another catalog at *folder*, as a rebuild does."""
    other = folder.with_name("other")
    opened = Catalog(other, is_writable=True)
    if objects:
        add(opened, *objects)
    opened.close()
    folder.rename(folder.with_name("aside"))
    other.rename(folder)


def test_a_folder_put_in_its_place_is_followed_and_open_views_go_on(
    catalog: Catalog, folder: Path
) -> None:
    add(catalog, chunk(1))
    put_in_place(folder, chunk(1), chunk(2))
    assert catalog.is_replaced()

    with catalog.view() as before:
        assert catalog.reopen()
        assert before.find(Kind.CHUNK, 0, digest(2)) is None
        with catalog.view() as after:
            assert after.find(Kind.CHUNK, 0, digest(2)) == 2
    assert not catalog.is_replaced()


def test_a_catalog_that_is_still_being_built_is_not_followed(
    catalog: Catalog, folder: Path
) -> None:
    point = manifest(Vm(new_vm_id(), "vm", "vm"), 1)
    put_point(catalog, point)
    put_in_place(folder)

    for content in (None, b"", b"no catalog" * 9999):
        if content is not None:
            (folder / gate.DATA).write_bytes(content)
        assert not catalog.reopen()
        with catalog.view() as view:
            assert set(view.point_ids()) == {point.point}


@pytest.mark.parametrize("is_put_in_place", [True, False])
def test_a_catalog_that_is_removed_while_it_is_followed_keeps_the_open_one(
    catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch, is_put_in_place: bool
) -> None:
    add(catalog, chunk(1))
    if is_put_in_place:
        put_in_place(folder, chunk(2))

    def check_removed(path: Path) -> None:
        path.rename(path.with_name("removed"))
        gate.check_size(path)

    if is_put_in_place:
        monkeypatch.setattr("cbtfs.store.catalog.environment.check_size", check_removed)
    else:
        folder.rename(folder.with_name("removed"))

    assert not catalog.reopen()
    with catalog.view() as view:
        assert view.find(Kind.CHUNK, 0, digest(1)) == 1


def test_a_reader_follows_a_removed_catalog_once_it_is_rebuilt(
    catalog: Catalog, folder: Path
) -> None:
    data = (folder / gate.DATA).read_bytes()
    (folder / gate.DATA).rename(folder / "away")
    for _ in range(2):
        catalog.is_replaced()
        with catalog.view() as view:
            assert view.generation
    (folder / gate.DATA).write_bytes(data)

    assert catalog.is_replaced()
    catalog.reopen()
    assert not catalog.is_replaced()


def test_each_catalog_has_a_generation_of_its_own(folder: Path) -> None:
    generations = set()
    for name in ("a", "b"):
        opened = Catalog(folder.with_name(name), is_writable=True)
        with opened.view() as view:
            generations.add(view.generation)
        opened.close()

    assert len(generations) == 2


def test_a_generation_stays_until_it_is_renewed(catalog: Catalog) -> None:
    with catalog.view() as view:
        before = view.generation
    add(catalog, chunk(1))
    with catalog.view() as view:
        assert view.generation == before

    catalog.update(lambda update: update.renew_generation())
    with catalog.view() as view:
        assert view.generation != before


@pytest.mark.parametrize("limit", ["AS, (300 << 20,) * 2", "NOFILE, (4, 4)"])
def test_a_shortage_is_not_damage(folder: Path, limit: str) -> None:
    """A writer would rebuild a catalog that it considers damaged."""
    Catalog(folder, is_writable=True).close()
    script = (
        "import resource, sys; from pathlib import Path; from tests.store.test_catalog import *\n"
        "from cbtfs.store.catalog import environment\n"
        "environment._SMALLEST_MAP_BYTES = 1 << 40\n"
        f"resource.setrlimit(resource.RLIMIT_{limit})\n"
        "try: Catalog(Path(sys.argv[1]), is_writable=True)\n"
        "except CbtfsError as exc: print(type(exc).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )

    assert done.stdout == "OutOfResources\n", done.stderr


# The gate


def damage(folder: Path, kind: str) -> None:
    data = folder / gate.DATA
    content = bytearray(data.read_bytes())
    if kind == "truncated":
        del content[len(content) // 2 :]
    elif kind == "one byte short":
        del content[-1]
    elif kind == "empty":
        content.clear()
    elif kind == "meta pages zeroed":
        content[:8192] = bytes(8192)
    elif kind == "one meta page zeroed":
        content[:4096] = bytes(4096)
    elif kind == "noise":
        content = bytearray(random.Random(1).randbytes(len(content)))
    data.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "one byte short",
        "empty",
        "meta pages zeroed",
        "one meta page zeroed",
        "noise",
    ],
)
def test_a_damaged_file_is_refused_before_it_is_mapped(folder: Path, kind: str) -> None:
    catalog = Catalog(folder, is_writable=True)
    add(catalog, *[chunk(number) for number in range(1, 500)])
    catalog.close()
    damage(folder, kind)

    with pytest.raises(CatalogDamaged, match="cbtfs repair"):
        Catalog(folder, is_writable=False)


def test_the_verifier_passes_a_whole_file(catalog: Catalog, folder: Path) -> None:
    add(catalog, *[chunk(number) for number in range(1, 500)])
    catalog.close()

    assert gate.verify(folder) is None


def test_the_verifier_finds_zeroed_pages(folder: Path) -> None:
    catalog = Catalog(folder, is_writable=True)
    add(catalog, *[chunk(number) for number in range(1, 500)])
    catalog.close()
    data = folder / gate.DATA
    content = data.read_bytes()
    data.write_bytes(content[:8192] + bytes(len(content) - 8192))

    assert gate.verify(folder)


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes every interpreter die of a signal."""

    def die(number: str) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\nulimit -c 0\nkill -{number} $$\n")
        python.chmod(0o700)
        monkeypatch.setattr("sys.executable", str(python))

    return die


@pytest.mark.parametrize("number", ["BUS", "SEGV", "ABRT"])
def test_a_verifier_that_dies_finds_the_catalog_damaged(
    catalog: Catalog, folder: Path, dying: Callable[[str], None], number: str
) -> None:
    """A bad page can kill LMDB's verifier, which then reports nothing."""
    catalog.close()
    dying(number)

    assert gate.verify(folder)


def test_a_verifier_that_the_kernel_kills_for_its_memory_says_nothing_of_the_catalog(
    catalog: Catalog, folder: Path, dying: Callable[[str], None]
) -> None:
    catalog.close()
    dying("KILL")

    with pytest.raises(OutOfResources, match="out of memory"):
        gate.verify(folder)


def test_an_interpreter_that_does_not_run_says_nothing_of_the_catalog(
    catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.close()
    monkeypatch.setattr("sys.executable", "/bin/false")

    with pytest.raises(CbtfsError, match="does not run: it ended with 1"):
        gate.verify(folder)


def test_no_catalog_is_made_for_a_reader(folder: Path) -> None:
    with pytest.raises(CbtfsError, match="no catalog"):
        Catalog(folder, is_writable=False)

    assert not folder.exists()


@pytest.mark.parametrize("key", [b"\xff" * 8, b"\xff" * 16, b"\x01"])
def test_a_key_that_is_no_number_is_damage(key: bytes) -> None:
    with pytest.raises(CatalogDamaged, match="key"):
        key_integer(key)
