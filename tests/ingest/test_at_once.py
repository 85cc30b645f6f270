"""Concurrent processes on one repository: one writes, the others wait or read."""

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.core.ids import PointId
from cbtfs.errors import RepositoryLocked
from cbtfs.listing import find_point
from cbtfs.reader import Reader
from cbtfs.store.repository import reading, writing
from tests.ingest.fake_disks import disk_of, ingest, ingest_into, points
from tests.ingest.peer_process import Line, peer
from tests.make_points import BLOCK, new_repository, read_point

Work = Callable[[Path, PointId, Line], None]

CONTENT = random.Random(7).randbytes(150 * BLOCK)
WRITERS = 3
INGESTS = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def hold(path: Path, line: Line) -> None:
    """Lock the repository until the peer sends a line; then take a point."""
    with writing(path) as repository:
        line.send(str(os.getpid()))
        line.receive()
        ingest_into(repository, {"A": disk_of(CONTENT).take_snapshot()})


def test_the_error_of_a_second_writer_names_the_first(path: Path) -> None:
    with peer(lambda line: hold(path, line)) as holder:
        pid = holder.receive()
        with pytest.raises(RepositoryLocked, match=f"process {pid} on ") as caught:
            ingest(path, {"B": disk_of(CONTENT).take_snapshot()})
        holder.send("go")

    assert caught.value.exit_code == 11
    assert len([name for name in points(path) if "." not in name]) == 1


def test_a_second_writer_that_waits_gets_its_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with peer(lambda line: hold(path, line)) as holder:
        holder.receive()
        waited, pause = list[float](), time.sleep

        def release_and_pause(seconds: float) -> None:
            if not waited:
                holder.send("go")
            waited.append(seconds)
            pause(seconds)

        monkeypatch.setattr(time, "sleep", release_and_pause)
        manifest = ingest(path, {"B": disk_of(CONTENT).take_snapshot()}, lock_wait=60)

    assert waited
    assert manifest.order == 2
    assert read_point(path, manifest) == {"B": CONTENT}


def test_writers_that_wait_for_each_other_all_commit(path: Path) -> None:
    def work(line: Line) -> None:
        line.receive()
        for n in range(INGESTS):
            disk = disk_of(CONTENT)
            disk.write(0, f"{os.getpid()} {n}".encode())
            ingest(path, {"A": disk.take_snapshot()}, lock_wait=60)
        line.send("done")

    with (
        peer(work) as first,
        peer(work) as second,
        peer(work) as third,
    ):
        writers = (first, second, third)
        for writer in writers:
            writer.send("go")
        done = [writer.receive() for writer in writers]

    with reading(path) as repository, repository.catalog.view() as view:
        (vm,) = view.vms()
        orders = [order for order, _ in view.points_of(vm)]
    assert done == ["done"] * WRITERS
    assert orders == list(range(1, WRITERS * INGESTS + 1))


def digest_of(path: Path, point: PointId) -> str:
    with reading(path) as repository:
        disk = find_point(repository, point).manifest.disks[0]
        return hashlib.sha256(Reader(repository).disk(disk).read(0, disk.size)).hexdigest()


def hash_over_and_over(path: Path, point: PointId, line: Line) -> None:
    """Send the digest of a point on request, by one reader that stays open."""
    with reading(path) as repository:
        disk = find_point(repository, point).manifest.disks[0]
        reader = Reader(repository, cache_bytes=0)
        while line.receive():
            content = reader.disk(disk).read(0, disk.size)
            line.send(hashlib.sha256(content).hexdigest())


def reopen_over_and_over(path: Path, point: PointId, line: Line) -> None:
    while line.receive():
        line.send(digest_of(path, point))


@pytest.mark.parametrize("work", [hash_over_and_over, reopen_over_and_over])
def test_an_old_point_reads_the_same_while_ingests_go_on(path: Path, work: Work) -> None:
    disk = disk_of(CONTENT)
    first = ingest(path, {"A": disk.take_snapshot()})
    rnd = random.Random(8)
    digests = []

    with peer(lambda line: work(path, first.point, line)) as reader:
        for _ in range(20):
            reader.send("again")
            disk.write(rnd.randrange(len(CONTENT)), rnd.randbytes(30_000))
            ingest(path, {"A": disk.take_snapshot()}, lock_wait=60)
            digests.append(reader.receive())

    assert digests == [hashlib.sha256(CONTENT).hexdigest()] * 20
