"""Packs in a bucket are read through local copies, which are verified and bounded."""

import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cbtfs.core.frame import Kind
from cbtfs.core.ids import PackId
from cbtfs.errors import ChunkMissing, DataCorrupt, StoreUnreachable
from cbtfs.store.backend.bucket import Bucket, BucketUrl, Patience
from cbtfs.store.backend.objects import Objects
from cbtfs.store.backend.tier import EXTENT, Tier, TierFile
from cbtfs.store.backend.tiered import Tiered
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.identity import new_pack_id
from cbtfs.store.packs import PackFolder
from tests.object_store import access_of, new_url
from tools.s3.proxy import Fault, Proxy, proxy
from tools.s3.servers import BUCKET, Server

A = "ab" * 16
IMPATIENT = Patience(repeat=0.2, first_delay=0.01)
CONTENTS = [os.urandom(1 << 16) for _ in range(40)]


def packs_behind(running: Proxy, server: Server, tier: Tier) -> PackFolder:
    bucket = Bucket(new_url(), access_of(server, running.endpoint), IMPATIENT)
    return PackFolder(Tiered(Objects(bucket, "packs"), tier), is_remote=True)


def put_pack(packs: PackFolder) -> None:
    writer = packs.create(new_pack_id())
    for content in CONTENTS:
        writer.append(Encoder().encode(Kind.CHUNK, 0, chunk_digest(content), content))
    writer.close()


def url_of(packs: PackFolder) -> str:
    """Return the prefix of the packs' bucket."""
    return "/".join(packs.path(PackId(A)).parts[2:-2])


def load_all(packs: PackFolder) -> list[bytes]:
    (pack,) = packs.ids()
    frames, problem = packs.frames(pack)
    assert problem is None
    return [packs.open(pack).load(frame) for frame in frames]


def only_copy(tier: Path) -> Path:
    (copy,) = (file for file in tier.glob("*/*") if file.suffix != ".map")
    return copy


def test_a_trailer_takes_two_requests_and_a_second_read_none(
    s3_server: Server, tmp_path: Path
) -> None:
    with proxy(s3_server.endpoint) as running:
        packs = packs_behind(running, s3_server, Tier(tmp_path))
        put_pack(packs)
        (pack,) = packs.ids()
        before = running.requests
        packs.frames(pack)
        assert running.requests - before == 2
        assert running.bytes_sent < 2 * EXTENT

        load_all(packs)
        before = running.counts["GET"]
        packs.forget_open()

        assert load_all(packs) == CONTENTS
        assert running.counts["GET"] - before <= 2  # a listing, and the header


@pytest.mark.parametrize("damage", ["zeros", "cut"])
def test_damaged_copies_are_fetched_again(s3_server: Server, tmp_path: Path, damage: str) -> None:
    with proxy(s3_server.endpoint) as running:
        packs = packs_behind(running, s3_server, Tier(tmp_path))
        put_pack(packs)
        load_all(packs)
        packs.forget_open()
        copy = only_copy(tmp_path)
        if damage == "zeros":
            with copy.open("r+b") as file:
                file.seek(EXTENT)
                file.write(bytes(EXTENT))
        else:
            os.truncate(copy, EXTENT // 2)

        assert load_all(packs) == CONTENTS


def test_damage_in_the_bucket_is_reported(s3_server: Server, tmp_path: Path) -> None:
    with proxy(s3_server.endpoint) as running:
        bucket = Bucket(new_url(), access_of(s3_server, running.endpoint), IMPATIENT)
        objects = Objects(bucket, "packs")
        packs = PackFolder(Tiered(objects, Tier(tmp_path)), is_remote=True)
        put_pack(packs)
        (pack,) = packs.ids()
        data = bytearray(objects.get(pack).data)
        data[EXTENT + 5] ^= 1
        objects.delete(pack)
        objects.create(pack, bytes(data))

        frames, problem = packs.frames(pack)
        assert problem is None
        (damaged,) = (f for f in frames if f.offset <= EXTENT + 5 < f.end)
        with pytest.raises(DataCorrupt):
            packs.open(pack).load(damaged)


def test_a_deleted_pack_is_missing(s3_server: Server, tmp_path: Path) -> None:
    with proxy(s3_server.endpoint) as running:
        packs = packs_behind(running, s3_server, Tier(tmp_path))
        put_pack(packs)
        (pack,) = packs.ids()
        frames, _ = packs.frames(pack)
        opened = packs.open(pack)
        packs.remove(pack)

        assert opened.is_removed
        for load in (lambda: opened.load(frames[0]), lambda: packs.open(pack)):
            with pytest.raises(ChunkMissing):
                load()


def test_copies_are_read_while_the_server_is_away(
    s3_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with proxy(s3_server.endpoint) as running:
        packs = packs_behind(running, s3_server, Tier(tmp_path))
        put_pack(packs)
        (pack,) = packs.ids()
        frames, _ = packs.frames(pack)
        opened = packs.open(pack)
        first = [opened.load(frame) for frame in frames[:3]]
        running.script.every, running.script.faults = 1, (Fault.DROPPED,)

        assert [opened.load(frame) for frame in frames[:3]] == first
        for _ in range(3):
            with pytest.raises(StoreUnreachable, match="does not answer"):
                opened.load(frames[25])
        assert len(caplog.records) == 1
        running.script.every = 0
        assert opened.load(frames[25]) == CONTENTS[25]


def filled(tier: Tier, name: str, extents: int) -> TierFile:
    copy = tier.open(name, extents * EXTENT)
    for extent in range(extents):
        copy.store(extent, bytes([extent + 1]) * EXTENT)
    return copy


def read(copy: TierFile, extent: int) -> bytes:
    data = bytearray(EXTENT)
    copy.read_into((data,), extent * EXTENT)
    return bytes(data)


def test_other_processes_see_what_was_stored(tmp_path: Path) -> None:
    one = Tier(tmp_path).open(A, 3 * EXTENT)
    other = Tier(tmp_path).open(A, 3 * EXTENT)

    one.store(1, b"x" * EXTENT)

    assert other.missing(0, 3 * EXTENT) == [0, 2]
    assert read(other, 1) == b"x" * EXTENT


def test_one_of_several_processes_fetches(s3_server: Server, tmp_path: Path) -> None:
    with proxy(s3_server.endpoint) as running:
        packs = packs_behind(running, s3_server, Tier(tmp_path))
        put_pack(packs)
        (pack,) = packs.ids()
        frames, _ = packs.frames(pack)
        bucket = Bucket(BucketUrl(BUCKET, url_of(packs)), access_of(s3_server, running.endpoint))
        others = [
            PackFolder(Tiered(Objects(bucket, "packs"), Tier(tmp_path)), is_remote=True)
            for _ in range(4)
        ]
        opened = [other.open(pack) for other in others]
        running.script.latency = 0.1
        before = running.counts["GET"]
        with ThreadPoolExecutor() as pool:
            assert {*pool.map(lambda one: one.load(frames[25]), opened)} == {CONTENTS[25]}

        assert running.counts["GET"] == before + 1


def test_a_copy_that_a_crash_left_without_bytes_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(Tier(tmp_path), A, 3)
    with only_copy(tmp_path).open("r+b") as file:
        file.seek(EXTENT)
        file.write(bytes(4096))
    boot = tmp_path / "boot"
    boot.write_text("another")
    monkeypatch.setattr("cbtfs.store.backend.tier._BOOT_ID", boot)

    assert Tier(tmp_path).open(A, 3 * EXTENT).missing(0, 3 * EXTENT) == [1]


@pytest.mark.parametrize(
    "harm",
    [
        lambda copy: copy.unlink(),
        lambda copy: copy.with_name(f"{A}.map").unlink(),
        lambda copy: copy.with_name(f"{A}.map").write_bytes(b"junk"),
        lambda copy: os.truncate(copy.with_name(f"{A}.map"), 60),
    ],
)
def test_half_of_a_copy_is_no_copy(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    filled(Tier(tmp_path), A, 2)
    harm(only_copy(tmp_path))

    assert Tier(tmp_path).open(A, 2 * EXTENT).missing(0, 2 * EXTENT) == [0, 1]


def test_the_least_recently_used_copies_are_evicted(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    names = [f"{number:02x}" * 16 for number in range(6)]
    for age, name in enumerate(names):
        copy = filled(tier, name, 2)
        if name == names[0]:
            copy.pin()
        if name == names[1]:
            kept_open = copy
        del copy
        when = 1_000_000 + age
        os.utime(tmp_path / name[:2] / f"{name}.map", (when, when))

    tier.make_space(8 * EXTENT)

    left = [name for name in names if tier.known_size(name) is not None]
    assert left == [names[0], names[1], names[5]]
    assert tier.used_bytes() <= 8 * EXTENT
    assert read(kept_open, 1) == b"\2" * EXTENT


def test_a_copy_with_the_name_of_an_evicted_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the open and the lock of an eviction, another process replaces the copy."""
    tier, replaced = Tier(tmp_path), list[TierFile]()
    filled(tier, A, 1)
    real = fcntl.flock

    def late(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not replaced:
            tier.drop(A)
            replaced.append(filled(tier, A, 1))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    tier.make_space(0)

    assert not replaced[0].is_dropped
    assert tier.known_size(A) == EXTENT


def test_a_process_that_is_stopped_does_not_stop_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbtfs.store.backend.tier._LOCK_SECONDS", 0.05)
    one, other = (Tier(tmp_path).open(A, EXTENT) for _ in range(2))
    with one.fetching(0):
        with other.fetching(0):
            other.store(0, b"x" * EXTENT)
        with other.fetching(0):  # The lock of the first one is not released by others.
            assert one.missing(0, EXTENT) == []
    with other.fetching(0):
        pass

    assert read(one, 0) == b"x" * EXTENT


def test_a_full_disk_costs_only_the_copies(
    s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(copy: TierFile, extent: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TierFile, "store", full)
    with proxy(s3_server.endpoint) as running:
        packs = packs_behind(running, s3_server, Tier(tmp_path))
        put_pack(packs)

        assert load_all(packs) == CONTENTS
