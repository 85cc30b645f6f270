"""New objects are stored once and enter the catalog only when they are flushed."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Kind
from cbtfs.core.ids import Ref
from cbtfs.errors import StoreFailed
from cbtfs.store.codec import Encoded, Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.pack import PACK_BYTES, PackWriter
from cbtfs.store.repository import Repository, writing
from cbtfs.store.writer import ObjectWriter
from tests.make_points import BLOCK, new_repository


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo")


@pytest.fixture
def repository(path: Path) -> Iterator[Repository]:
    with writing(path) as opened:
        yield opened


def writer_of(repository: Repository, pack_bytes: int = PACK_BYTES) -> ObjectWriter:
    return ObjectWriter(repository.catalog, repository.packs, 1, pack_bytes=pack_bytes)


def chunk(number: int) -> Encoded:
    content = number.to_bytes(8, "big") * (BLOCK // 8)
    return Encoder().encode(Kind.CHUNK, 0, chunk_digest(content), content)


def children(*refs: Ref) -> list[Ref | None]:
    return [*refs, *[None] * (FANOUT - len(refs))]


def known(repository: Repository) -> set[int]:
    with repository.catalog.view() as view:
        return {number for number, _ in view.all_locations()}


def test_an_object_is_stored_once_within_an_open_pack(repository: Repository) -> None:
    objects = writer_of(repository)
    first, second = objects.put_chunk(chunk(1)), objects.put_chunk(chunk(1))
    objects.close()

    assert first.stored > 0
    assert second == (first.ref, 0)


def test_an_object_is_stored_once_across_packs(repository: Repository) -> None:
    objects = writer_of(repository, pack_bytes=1)
    first = objects.put_chunk(chunk(1))
    objects.put_chunk(chunk(2))
    objects.flush()
    second = objects.put_chunk(chunk(1))
    objects.close()

    assert (second.ref.number, second.stored) == (first.ref.number, 0)
    assert len(repository.packs.ids()) == 2


def test_an_object_is_stored_once_whoever_stored_it_before(path: Path) -> None:
    stored = []
    for _ in range(2):
        with writing(path) as repository:
            objects = writer_of(repository)
            leaf = objects.put_node(1, children(objects.put_chunk(chunk(1)).ref))
            stored.append(leaf.stored)
            objects.flush()
            objects.close()

    assert stored[0] > 0
    assert stored[1] == 0


def test_an_object_enters_the_catalog_only_when_its_pack_is_closed(repository: Repository) -> None:
    objects = writer_of(repository)
    ref = objects.put_chunk(chunk(1)).ref

    assert objects.find(Kind.CHUNK, 0, ref.digest) == ref.number
    assert known(repository) == set()
    objects.flush()
    assert known(repository) == {ref.number}
    objects.close()


def test_a_pack_has_its_name_before_the_catalog_names_its_objects(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    close = PackWriter.close

    def watched(pack: PackWriter) -> int:
        before = known(repository)
        size = close(pack)
        seen.append((before, known(repository), repository.packs.path(pack.id).exists()))
        return size

    monkeypatch.setattr(PackWriter, "close", watched)
    objects = writer_of(repository)
    objects.put_chunk(chunk(1))
    objects.flush()
    objects.close()

    assert seen == [(set(), set(), True)]


def test_unflushed_objects_are_dropped(repository: Repository) -> None:
    objects = writer_of(repository)
    objects.put_chunk(chunk(1))
    objects.close()

    assert known(repository) == set()
    assert [*repository.path.rglob("*.open")] == []


def test_ids_continue_after_those_of_the_last_writer(repository: Repository) -> None:
    numbers = []
    for seed in range(3):
        objects = writer_of(repository)
        numbers.append(objects.put_chunk(chunk(seed)).ref.number)
        objects.flush()
        objects.close()

    assert numbers == [1, 2, 3]


def test_puts_from_many_threads_store_each_object_once(repository: Repository) -> None:
    objects = writer_of(repository, pack_bytes=20 * BLOCK)
    with ThreadPoolExecutor(4) as threads:
        puts = list(threads.map(lambda n: objects.put_chunk(chunk(n % 50)), range(400)))
    objects.flush()
    objects.close()

    assert len({put.ref.number for put in puts}) == 50
    assert sum(put.stored > 0 for put in puts) == 50
    assert len(known(repository)) == 50


def refuse(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_pack_that_cannot_be_closed_ends_the_writer(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = writer_of(repository)
    objects.put_chunk(chunk(1))
    monkeypatch.setattr(os, "fsync", refuse)

    with pytest.raises(StoreFailed, match="No space left"):
        objects.flush()
    monkeypatch.undo()
    with pytest.raises(StoreFailed, match="No space left"):
        objects.put_chunk(chunk(2))
    with pytest.raises(StoreFailed, match="No space left"):
        objects.flush()
    objects.close()
    assert known(repository) == set()


def test_nothing_of_later_packs_is_known_once_a_pack_failed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    close = PackWriter.close

    def failing_once(pack: PackWriter) -> int:
        if not failed:
            failed.append(pack.id)
            refuse()
        return close(pack)

    monkeypatch.setattr(PackWriter, "close", failing_once)
    objects = writer_of(repository, pack_bytes=1)
    with pytest.raises(StoreFailed):  # noqa: PT012 (which call learns of it is a race)
        below = objects.put_chunk(chunk(1)).ref
        for level in range(1, 20):
            below = objects.put_node(level, children(below)).ref
        objects.flush()
    objects.close()

    assert known(repository) == set()


def test_a_write_that_fails_ends_the_writer(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = writer_of(repository)
    monkeypatch.setattr("cbtfs.store.pack._BUFFER_BYTES", 1)
    monkeypatch.setattr(os, "writev", refuse)
    with pytest.raises(StoreFailed, match="No space left"):
        objects.put_chunk(chunk(1))
    monkeypatch.undo()

    with pytest.raises(StoreFailed, match="No space left"):
        objects.put_chunk(chunk(2))
    with pytest.raises(StoreFailed, match="No space left"):
        objects.flush()
    objects.close()
    assert repository.packs.ids() == set()


def test_short_writes_are_finished(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev

    def short(fd: int, parts: list[memoryview]) -> int:
        return writev(fd, [parts[0][:7]])

    objects = writer_of(repository)
    refs = [objects.put_chunk(chunk(n)).ref for n in range(3)]
    monkeypatch.setattr(os, "writev", short)
    objects.flush()
    objects.close()
    monkeypatch.undo()

    with repository.catalog.view() as view:
        places = view.locations([ref.number for ref in refs])
    (pack,) = repository.packs.ids()
    contents = [repository.packs.open(pack).load(places[ref.number].frame) for ref in refs]
    assert [chunk_digest(content) for content in contents] == [ref.digest for ref in refs]
