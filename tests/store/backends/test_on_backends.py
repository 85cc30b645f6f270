"""Packs and points work on any backend, and a failed request leaves them consistent."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cbtfs.core.frame import Kind
from cbtfs.core.manifest import PointState
from cbtfs.errors import ChunkMissing, PointNotFound
from cbtfs.store.backend.base import FileBackend
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.identity import new_pack_id
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder
from tests.make_points import manifest_of
from tests.store.backends.faulty import Fault, Faulty
from tests.store.backends.memory import Memory

CONTENTS = [bytes([number]) * 5000 for number in range(1, 6)]


def put_pack(packs: PackFolder) -> None:
    writer = packs.create(new_pack_id())
    try:
        for content in CONTENTS:
            writer.append(Encoder().encode(Kind.CHUNK, 0, chunk_digest(content), content))
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def test_packs_are_read_from_memory() -> None:
    packs = PackFolder(Memory())
    put_pack(packs)

    (pack,) = packs.ids()
    frames, problem = packs.frames(pack)
    assert problem is None
    assert [packs.open(pack).load(frame) for frame in frames] == CONTENTS
    packs.remove(pack)
    packs.close_removed()
    with pytest.raises(ChunkMissing):
        packs.open(pack)


def test_points_live_in_memory() -> None:
    points, committed = PointFolder(Memory()), manifest_of("vm", None, ())
    point = committed.point
    points.commit(committed, PointState(point, tags=("a",)))
    assert points.ids() == {point}
    assert points.load_state(point)[0].tags == ("a",)

    with points.leased(point):
        points.forget([point])
        with points.claimed() as claimed:
            assert not claimed

    with points.claimed() as claimed:
        assert claimed == {point}
    with pytest.raises(PointNotFound), points.leased(point):
        pass
    points.unforget([point])
    assert points.read_manifest(point) == committed


def storages() -> Iterator[Memory]:
    while True:
        yield Memory()


@pytest.mark.parametrize("fault", Fault)
def test_a_failed_request_leaves_a_whole_pack_or_none(fault: Fault) -> None:
    for fails_at, inner in enumerate(storages(), 1):
        faulty = Faulty(inner, fails_at, fault)
        try:
            put_pack(PackFolder(faulty))
        except OSError:
            pass
        else:
            break
        packs = PackFolder(inner)
        assert packs.count_leftovers() <= (fault is Fault.LOST)
        for pack in packs.ids():
            assert fault is Fault.LOST
            assert packs.frames(pack)[1] is None

    assert fails_at > 2


@pytest.mark.parametrize("fault", Fault)
def test_a_failed_request_leaves_a_whole_point_or_none(fault: Fault) -> None:
    committed = manifest_of("vm", None, ())
    for fails_at, inner in enumerate(storages(), 1):
        try:
            PointFolder(Faulty(inner, fails_at, fault)).commit(
                committed, PointState(committed.point)
            )
        except OSError:
            pass
        else:
            break
        points = PointFolder(inner)
        for point in points.ids():
            assert points.read_manifest(point) == committed
            assert points.load_state(point)[0].suspect is None

    assert fails_at == 3


def test_a_backend_is_closed_with_its_owner(tmp_path: Path) -> None:
    closed = list[FileBackend]()

    class Closing(Memory):
        def close(self) -> None:
            closed.append(self)

    with closing(PackFolder(Closing())), closing(PointFolder(Closing())):
        pass

    assert len(closed) == 2
