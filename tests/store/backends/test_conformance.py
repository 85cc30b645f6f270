"""Every backend keeps the protocol of cbtfs/store/backend/base.py."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest

from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.backend.local import Directory, LocalUpload, ShardedDirectory
from cbtfs.store.backend.tier import Tier
from cbtfs.store.backend.tiered import Tiered
from cbtfs.store.encryption.files import SealedBackend
from cbtfs.store.encryption.keys import keys_of_masters
from cbtfs.store.folder import Folder
from tests.object_store import objects_of
from tests.store.backends.faulty import Faulty
from tests.store.backends.memory import Memory
from tools.s3.proxy import Fault, Script, proxy
from tools.s3.servers import Server

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16


def directory(path: Path) -> FileBackend:
    return Directory(Folder(path))


def sealed(path: Path) -> FileBackend:
    keys = keys_of_masters("ab" * 16, {1: bytes(32)}, bytes(32))
    return SealedBackend(directory(path), keys, "points")


FILES: dict[str, Callable[[Path], FileBackend]] = {
    "directory": directory,
    "memory": lambda _: Memory(),
    "sealed": sealed,
    "faulty": lambda path: Faulty(directory(path)),
}
ALL: dict[str, Callable[[Path], Backend]] = {
    **FILES,
    "sharded": lambda path: ShardedDirectory(Folder(path)),
}


OBJECTS: dict[str, Callable[[Path, Server], Backend]] = {
    "s3": lambda _, server: objects_of(server),
    "tiered": lambda path, server: Tiered(objects_of(server), Tier(path / "tier")),
}


FAULTS = tuple(fault for fault in Fault if fault is not Fault.STALE)
"""A stale 404 is an absence if it comes twice; test_bucket.py tests it once."""


@pytest.fixture(params=[*ALL, *OBJECTS, "tiered, faults"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param in ALL:
        yield ALL[request.param](tmp_path)
        return
    server: Server = request.getfixturevalue("s3_server")
    if request.param in OBJECTS:
        yield OBJECTS[request.param](tmp_path, server)
        return
    script = Script(every=4, faults=FAULTS, seed=crc32(request.node.name.encode()), slow=0.01)
    with proxy(server.endpoint, script) as running:
        yield Tiered(objects_of(server, running.endpoint), Tier(tmp_path / "tier"))


@pytest.fixture(params=FILES)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileBackend:
    return FILES[request.param](tmp_path)


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 500])
def test_a_created_object_is_read_back(backend: Backend, data: bytes) -> None:
    backend.create(A, data)

    content = backend.get(A)
    assert content.data == data
    assert content.head == backend.head(A)
    overhead = 0 if not isinstance(backend, SealedBackend) else 592 - len(data) % 512
    assert 0 <= content.head.size - len(data) <= overhead


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 4), (3, 4), (8, 4), (10, 1), (11, 1), (99, 5), (0, 0), (2, None)]
)
def test_a_range_ends_with_the_object(backend: Backend, offset: int, length: int | None) -> None:
    data = b"0123456789"
    backend.create(A, data)

    end = None if length is None else offset + length
    assert backend.get(A, offset, length).data == data[offset:end]


def test_an_object_is_created_once(backend: Backend) -> None:
    backend.create(A, b"first")

    with pytest.raises(FileExistsError):
        backend.create(A, b"second")

    assert backend.get(A).data == b"first"
    assert backend.names() == [A]


def test_one_of_many_creators_succeeds(backend: Backend) -> None:
    start, winners = threading.Barrier(8), list[int]()

    def create(number: int) -> None:
        start.wait()
        try:
            backend.create(A, b"%d" % number * 1000)
        except FileExistsError:
            return
        winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = winners
    assert backend.get(A).data == b"%d" % winner * 1000
    assert backend.unfinished() == 0


def test_an_upload_is_found_once_it_is_closed(backend: Backend) -> None:
    upload = backend.upload(A)
    written = upload.write([b"one", memoryview(b"two")]) + upload.write([]) + upload.write([b"3"])
    with pytest.raises(FileNotFoundError):
        backend.get(A)
    assert A not in backend.names()
    assert backend.unfinished() == 1

    upload.close()

    assert written == 7
    assert backend.get(A).data == b"onetwo3"
    assert backend.unfinished() == 0


def test_an_abandoned_upload_leaves_nothing(backend: Backend) -> None:
    upload = backend.upload(A)
    upload.write([b"bytes"])

    upload.abandon()
    upload.abandon()

    assert backend.unfinished() == 0
    assert not [*backend.names()]


def test_unfinished_objects_are_discarded(backend: Backend) -> None:
    backend.create(A, b"kept")
    uploads = [backend.upload(name) for name in (B, C)]
    for upload in uploads:
        if isinstance(upload, LocalUpload):
            upload._close_file()  # The kernel does this if the program dies.

    assert backend.discard_unfinished() == 2

    assert backend.names() == [A]
    assert backend.unfinished() == 0
    for upload in uploads:
        upload.abandon()


def test_an_upload_of_a_running_program_is_not_discarded(tmp_path: Path) -> None:
    backend = ShardedDirectory(Folder(tmp_path))
    upload = backend.upload(B)
    upload.write([b"content"])

    assert backend.discard_unfinished() == 0

    upload.close()
    assert backend.get(B).data == b"content"
    backend.close()


def test_an_open_object_is_read_at_any_offset(backend: Backend) -> None:
    data = bytes(range(200))
    backend.create(A, data)
    opened = backend.open(A)

    first, second = bytearray(30), bytearray(50)
    assert opened.read_into((first, second), 7) == 80
    assert bytes(first + second) == data[7:87]
    assert opened.read_into((bytearray(50),), 180) == 20
    assert opened.read_into((bytearray(1),), 200) == 0
    assert opened.size == 200
    assert opened.path.name == A
    assert opened.data_from(5) == 5


def test_an_open_object_outlives_its_deletion(backend: Backend) -> None:
    backend.create(A, b"bytes")
    opened = backend.open(A)
    assert not opened.is_removed

    backend.delete(A)

    target = bytearray(5)
    assert opened.read_into((target,), 0) == 5
    assert target == b"bytes"
    assert opened.is_removed


def test_sizes_are_those_of_all_complete_objects(backend: Backend) -> None:
    backend.create(A, b"12345")
    backend.create(B, b"")
    upload = backend.upload(C)
    upload.write([b"unfinished"])

    sizes = backend.sizes()

    assert sizes == {name: backend.head(name).size for name in (A, B)}
    upload.abandon()


def test_names_are_listed_after_a_name(backend: Backend) -> None:
    for name in (B, C, A):
        backend.create(name, b"")

    assert sorted(backend.names()) == [A, B, C]
    assert [*backend.names_after("")] == [A, B, C]
    assert [*backend.names_after(A)] == [B, C]
    assert [*backend.names_after("b")] == [B, C]
    assert [*backend.names_after(C)] == []


@pytest.mark.parametrize(
    ("after", "prefix", "listed"),
    [
        ("", "ab", ["ab", "ab.1", "ab.2", "abc"]),
        ("", "ab.", ["ab.1", "ab.2"]),
        ("ab.1", "ab.", ["ab.2"]),
        ("ab.2", "ab.", []),
        ("aa", "ab.", ["ab.1", "ab.2"]),
        ("ac", "ab.", []),
        ("", "ad", []),
    ],
)
def test_names_are_listed_by_prefix(
    backend: Backend, after: str, prefix: str, listed: list[str]
) -> None:
    for name in ("aa", "ab", "ab.1", "ab.2", "abc", "ac"):
        backend.create(name, b"")

    assert [*backend.names_after(after, prefix)] == listed


def test_a_listing_has_every_object_that_exists_throughout(backend: Backend) -> None:
    names = [f"{number:04x}" for number in range(0, 120, 2)]
    for name in names:
        backend.create(name, b"")
    listed = list[str]()
    for count, name in enumerate(backend.names_after("")):
        listed.append(name)
        if count < 20:
            backend.create(f"{count * 6 + 1:04x}", b"")
            backend.delete(f"{count * 6 + 1:04x}")

    assert listed == sorted(set(listed))
    assert set(names) <= {*listed}


def test_a_deleted_object_is_gone(backend: Backend) -> None:
    backend.create(A, b"bytes")

    backend.delete(A)
    backend.delete(A)

    for call in (backend.get, backend.head, backend.open):
        with pytest.raises(FileNotFoundError):
            call(A)
    backend.create(A, b"again")


def test_a_stamp_changes_with_the_object(files: FileBackend) -> None:
    files.create(A, b"first")
    before = files.head(A)

    files.replace(A, b"other")

    assert files.get(A).data == b"other"
    assert files.head(A).stamp != before.stamp
    assert len(before.stamp) <= 24


def test_a_rename_replaces(files: FileBackend) -> None:
    new = f"{A}.forgotten"  # Renames of other names make an encrypted object unreadable.
    files.create(A, b"a")
    files.create(new, b"b")
    head = files.head(A)

    files.rename(A, new)
    files.flush()

    assert files.names() == [new]
    assert files.get(new) == (b"a", head)
    with pytest.raises(FileNotFoundError):
        files.rename(A, new)


def test_a_leased_object_cannot_be_claimed_under_any_name(files: FileBackend) -> None:
    files.create(A, b"")
    with files.lease(A), files.lease(A):
        files.rename(A, B)
        with files.claim(B) as is_claimed:
            assert not is_claimed

    with files.claim(B) as is_claimed:
        assert is_claimed
        with files.claim(B) as is_second:
            assert not is_second


def test_nothing_is_neither_leased_nor_claimed(files: FileBackend) -> None:
    with pytest.raises(FileNotFoundError), files.lease(A):
        pass

    with files.claim(A) as is_claimed:
        assert not is_claimed


def test_the_lock_has_one_holder(files: FileBackend) -> None:
    order = list[str]()
    with files.locked():

        def wait() -> None:
            with files.locked():
                order.append("second")

        second = threading.Thread(target=wait)
        second.start()
        order.append("first")
    second.join()

    assert order == ["first", "second"]
