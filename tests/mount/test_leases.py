"""Each worker that reads from a point holds its own lease while files of the point are open.

Two instances of FileSystem with one table of counts represent two workers. Each opens the manifest
itself, so the tests count leases as open descriptors of the manifest.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import cbtfs.mount.leases as leases_module
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import PointNotFound
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.inodes import ROOT
from cbtfs.mount.open_counts import OpenCounts
from cbtfs.native import Requests
from cbtfs.store.backend.base import NoReply
from cbtfs.store.repository import Repository, reading
from tests.make_points import BLOCK, add_point, new_repository


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def points(path: Path) -> list[Manifest]:
    """Three points with two disks each."""
    return [
        add_point(path, {label: bytes([number]) * BLOCK for label in ("a", "b")})
        for number in (1, 2, 3)
    ]


@pytest.fixture
def repository(path: Path, points: list[Manifest]) -> Iterator[Repository]:
    with reading(path) as opened:
        yield opened


def inode(file_system: FileSystem, manifest: Manifest, label: str = "a") -> int:
    """Return the inode number of a disk."""
    number = ROOT
    for name in (manifest.vm.directory, manifest.name, f"{label}.raw"):
        entry = file_system.lookup(number, name)
        assert entry is not None
        number = entry.inode
    return number


def leases(path: Path, manifest: Manifest) -> int:
    """Return how often this process has the manifest open."""
    names = [str(path / "points" / f"{manifest.point}{suffix}") for suffix in ("", ".forgotten")]
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}") in names
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return count


@pytest.mark.parametrize("request_kind", ["read", "prepared read", "seek"])
def test_each_worker_that_reads_takes_its_own_lease(
    path: Path, repository: Repository, points: list[Manifest], request_kind: str
) -> None:
    """Otherwise prune could delete the point once the worker that opened the file is killed."""
    open_counts = OpenCounts()
    opener, reader = FileSystem(repository, open_counts), FileSystem(repository, open_counts)
    number = inode(opener, points[0])
    opener.open(number)
    assert leases(path, points[0]) == 1

    if request_kind != "read":
        device, session = socket.socketpair()
        with device, session:
            reader.provide_leaves_to(Requests(device.fileno(), session.fileno(), reader.chunks))
            if request_kind == "seek":
                assert reader.prepare_seek(number, 0) is None
            else:
                assert reader.prepare(number, 0, BLOCK)
    else:
        assert bytes(reader.read(number, 0, BLOCK)) == bytes([1]) * BLOCK

    assert leases(path, points[0]) == 2


def test_a_new_worker_leases_all_points_with_open_files(
    path: Path, repository: Repository, points: list[Manifest]
) -> None:
    open_counts = OpenCounts()
    first = FileSystem(repository, open_counts)
    for manifest in points[:2]:
        first.open(inode(first, manifest))

    second = FileSystem(repository, open_counts)

    assert [leases(path, manifest) for manifest in points] == [2, 2, 0]
    assert second.open_points == 2


def test_closing_a_file_keeps_the_leases_of_other_files(
    path: Path, repository: Repository, points: list[Manifest]
) -> None:
    file_system = FileSystem(repository, OpenCounts())
    for manifest in points:
        file_system.open(inode(file_system, manifest))
    file_system.open(inode(file_system, points[0], "b"))

    file_system.close(inode(file_system, points[0], "b"))
    assert [leases(path, manifest) for manifest in points] == [1, 1, 1]
    file_system.close(inode(file_system, points[1]))
    assert [leases(path, manifest) for manifest in points] == [1, 0, 1]
    file_system.close(inode(file_system, points[0]))
    assert [leases(path, manifest) for manifest in points] == [0, 0, 1]


def test_periodic_work_ends_only_leases_of_closed_files(
    path: Path, repository: Repository, points: list[Manifest]
) -> None:
    """The other worker learns of a close from the table of counts."""
    open_counts = OpenCounts()
    closer, other = FileSystem(repository, open_counts), FileSystem(repository, open_counts)
    for manifest in points[:2]:
        closer.open(inode(closer, manifest))
        other.read(inode(other, manifest), 0, 1)
    closer.close(inode(closer, points[0]))
    assert [leases(path, manifest) for manifest in points[:2]] == [1, 2]

    other.leases.drop_unused()

    assert [leases(path, manifest) for manifest in points[:2]] == [0, 2]


def test_a_forgotten_point_is_leased_by_readers_and_cannot_be_opened_again(
    path: Path, repository: Repository, points: list[Manifest]
) -> None:
    open_counts = OpenCounts()
    opener, reader = FileSystem(repository, open_counts), FileSystem(repository, open_counts)
    number = inode(opener, points[0])
    opener.open(number)
    repository.points.forget([points[0].point])

    assert bytes(reader.read(number, 0, BLOCK)) == bytes([1]) * BLOCK
    assert leases(path, points[0]) == 2
    opener.close(number)
    reader.leases.drop_unused()
    with pytest.raises(PointNotFound):
        opener.leases.open(points[0].point)
    assert leases(path, points[0]) == 0
    assert not open_counts.is_open(points[0].point)


def test_a_file_opens_without_a_lease_while_the_server_is_away(
    path: Path,
    repository: Repository,
    points: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = list[str]()

    def away(point: PointId, *, is_open: bool = False) -> AbstractContextManager[None]:
        attempts.append(point)
        raise NoReply(errno.EIO, "the server does not answer")

    file_system = FileSystem(repository, OpenCounts())
    with monkeypatch.context() as patched:
        patched.setattr(repository.points, "leased", away)
        number = inode(file_system, points[0])
        file_system.open(number)
        assert bytes(file_system.read(number, 0, BLOCK)) == bytes([1]) * BLOCK
        file_system.leases.drop_unused()
        assert attempts == [points[0].point]  # Reads do not wait for each attempt.

    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    file_system.leases.drop_unused()
    assert leases(path, points[0]) == 1
    file_system.close(number)
    assert leases(path, points[0]) == 0


def test_a_lease_that_comes_too_late_is_reported(
    repository: Repository,
    points: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file_system = FileSystem(repository, OpenCounts())
    number = inode(file_system, points[0])

    def gone(point: PointId, *, is_open: bool = False) -> AbstractContextManager[None]:
        raise NoReply(errno.EIO, "away") if not caplog.records else PointNotFound("it is gone")

    caplog.set_level("INFO")
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(repository.points, "leased", gone)
    file_system.open(number)
    file_system.leases.drop_unused()

    assert "is read without a lease: it is gone" in caplog.records[-1].getMessage()
