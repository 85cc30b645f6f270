"""The files of guests in the mount, as other programs use them."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.files.protocol import Entry, Kind
from tests.files.guest_trees import (
    SHAPES,
    expected,
    fill,
    make,
    mounted,
    paths_below,
)
from tests.make_points import add_point, new_repository
from tests.mount.mount_process import Server, forget, kill, read_at, serving, wait_until

pytestmark = pytest.mark.mounts

BIG = 1 << 24
PATTERN = b"a line that grep finds\n"


@dataclass(frozen=True)
class Guest:
    """A repository with a point, and the files of the guest as its kernel shows them."""

    repository: Path
    point: Manifest
    entries: dict[str, Entry]
    contents: dict[str, bytes]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    folder = tmp_path_factory.mktemp("guest")
    image = folder / "image"
    make(image, SHAPES["ext4-1k-inline"], 24)
    with mounted(image) as root:
        fill(root, 300)
        (root / "large").write_bytes(os.urandom(3_000_000) + PATTERN)
        (root / "directory" / "found").write_bytes(PATTERN)
        entries = {path: expected(root, path) for path in paths_below(root)}
        contents = {
            path: (root / path[1:]).read_bytes()
            for path, entry in entries.items()
            if entry.kind is Kind.FILE and entry.size <= BIG
        }
    repository = new_repository(folder / "repository", 1 << 16)
    point = add_point(repository, {"root": image.read_bytes()})
    return Guest(repository, point, entries, contents)


@pytest.fixture(scope="module")
def server(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(guest.repository, tmp_path_factory.mktemp("mnt"), "--workers=2") as server:
        yield server


@pytest.fixture
def files(server: Server, guest: Guest) -> Path:
    return server.folder(guest.point) / "files"


def parsers(server: Server) -> list[int]:
    """Return the process ids of the parsers of all workers."""
    found = []
    for worker in server.workers():
        for task in Path(f"/proc/{worker}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def data_of(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts of a file that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def expected_blocks(content: bytes) -> int:
    """Return the bytes in blocks of 4 KiB that the program wrote; the first is all zeros."""
    return 4096 + sum(4096 for at in range(0, len(content), 4096) if any(content[at : at + 4096]))


def test_the_directory_is_found_and_not_listed(files: Path) -> None:
    assert "files" not in os.listdir(files.parent)
    assert stat.S_ISDIR(files.stat().st_mode)
    assert not files.with_name("nothing").exists()
    assert not (files / "nothing").exists()


def test_all_files_have_the_facts_of_the_guest(files: Path, guest: Guest) -> None:
    shown = {path: os.lstat(files / path[1:]) for path in paths_below(files)}
    special = {Kind.CHARACTER, Kind.BLOCK, Kind.SOCKET}

    assert shown.keys() == guest.entries.keys()
    for path, facts in shown.items():
        entry = guest.entries[path]
        assert stat.S_ISSOCK(facts.st_mode) == (entry.kind in special)
        assert stat.S_ISDIR(facts.st_mode) == (entry.kind is Kind.DIRECTORY)
        assert stat.S_ISLNK(facts.st_mode) == (entry.kind is Kind.LINK)
        if entry.kind is not Kind.LINK:
            assert not facts.st_mode & (stat.S_ISUID | stat.S_ISGID | 0o077)
        if path != "/":
            assert (facts.st_mtime_ns, facts.st_ctime_ns) == (entry.modified_ns, entry.changed_ns)
            assert facts.st_size == entry.size
            assert facts.st_nlink == entry.links
    numbers = [facts.st_ino for path, facts in shown.items() if guest.entries[path].links == 1]
    assert len(set(numbers)) == len(numbers)
    assert shown["/small"].st_ino == shown["/second-name"].st_ino
    assert os.readlink(files / "absolute") == "/small"
    assert os.readlink(files / "long-link") == "x" * 200


def test_contents_are_those_of_the_guest(files: Path, guest: Guest) -> None:
    for path, data in guest.contents.items():
        assert (files / path[1:]).read_bytes() == data, path
    large = guest.contents["/large"]
    for offset in range(0, len(large), 700_001):
        assert read_at(files / "large", offset, 70_000) == large[offset : offset + 70_000]
    assert read_at(files / "large", len(large) - 5, 100) == large[-5:]


def test_programs_copy_search_and_list(files: Path, guest: Guest, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", files, tmp_path / "copy"], check=True)
    searched = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", PATTERN.decode().strip(), files],
        capture_output=True,
        text=True,
        check=False,
    )
    found = subprocess.run(["find", files, "-print0"], capture_output=True, check=True)

    for path, data in guest.contents.items():
        copied = tmp_path / "copy" / path[1:]
        assert copied.read_bytes() == data
        assert copied.stat().st_mtime_ns == guest.entries[path].modified_ns
    assert os.path.samefile(tmp_path / "copy" / "small", tmp_path / "copy" / "second-name")
    assert {Path(line).name for line in searched.stdout.splitlines()} == {"large", "found"}
    assert len(found.stdout.split(b"\0")) - 1 == len(guest.entries)


def test_seeks_find_the_holes_of_the_guest(files: Path, guest: Guest) -> None:
    for name in ("sparse", "fragmented", "large", "small", "inline", "empty"):
        expected = guest.contents[f"/{name}"]
        data = bytearray(len(expected))
        count = 0
        with (files / name).open("rb") as opened:
            for start, end in data_of(opened.fileno(), len(expected)):
                data[start:end] = os.pread(opened.fileno(), end - start, start)
                count += end - start
        assert bytes(data) == expected
        if name == "sparse":
            assert count <= 4 * 1024
        elif name == "fragmented":
            assert count == expected_blocks(expected)


def test_many_readers_get_the_same_bytes(server: Server, files: Path, guest: Guest) -> None:
    names = [path for path, data in guest.contents.items() if data][:60]
    digests = {path: hashlib.sha256(guest.contents[path]).digest() for path in names}

    def read(number: int) -> bool:
        order = names[number % len(names) :] + names[: number % len(names)]
        return all(
            hashlib.sha256((files / path[1:]).read_bytes()).digest() == digests[path]
            for path in order
        )

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(read, range(20)))


def outcome(path: Path) -> int:
    """Return the error of a listing that no cache answers, or 0."""
    try:
        os.listdir(path)
    except OSError as exc:
        return exc.errno or -1
    return 0


def test_a_killed_parser_is_replaced(guest: Guest, tmp_path: Path) -> None:
    with serving(guest.repository, tmp_path / "mnt", "--workers=1") as server:
        files = server.folder(guest.point) / "files"
        assert outcome(files / "names") == 0
        (parser,) = parsers(server)
        os.kill(parser, signal.SIGKILL)

        assert outcome(files / "directory") in (0, errno.EIO)
        assert outcome(files / "directory" / "in") == 0
        assert (files / "small").read_bytes() == guest.contents["/small"]
        assert parsers(server) != [parser]


def test_a_parser_that_hangs_fails_one_request_and_delays_no_disk(
    guest: Guest, tmp_path: Path
) -> None:
    with serving(guest.repository, tmp_path / "mnt", "--workers=1") as server:
        files = server.folder(guest.point) / "files"
        assert outcome(files / "names") == 0
        (parser,) = parsers(server)
        os.kill(parser, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as pool:
            started = time.monotonic()
            hanging = pool.submit(outcome, files / "directory")
            waiting = [pool.submit(outcome, files / "many") for _ in range(6)]
            for offset in range(0, 1 << 24, 1 << 20):
                read_at(server.disk(guest.point, "root"), offset, 4096)
            assert os.listdir(server.root)
            assert not hanging.done()
            assert time.monotonic() - started < 15
            errors = [hanging.result(), *(future.result() for future in waiting)]

        assert errors.count(errno.EIO) == 1
        assert errors.count(0) == 6
        assert not Path(f"/proc/{parser}").exists()


def test_names_that_another_worker_gave_out_are_valid(guest: Guest, tmp_path: Path) -> None:
    with serving(guest.repository, tmp_path / "mnt", "--workers=2") as server:
        files = server.folder(guest.point) / "files"
        before = {path: os.lstat(files / path[1:]).st_ino for path in guest.entries}
        with (files / "large").open("rb") as opened:
            assert opened.read(1000) == guest.contents["/large"][:1000]
            for worker in server.workers():
                kill(worker)
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(opened.fileno(), 1000, 5000) == guest.contents["/large"][5000:6000]
        assert {path: os.lstat(files / path[1:]).st_ino for path in guest.entries} == before


def test_an_open_file_keeps_its_point(tmp_path: Path, guest: Guest) -> None:
    repository = tmp_path / "repository"
    subprocess.run(["cp", "-a", guest.repository, repository], check=True)
    add_point(repository, {"root": bytes(1 << 20)})
    with serving(repository, tmp_path / "mnt", "--workers=2") as server:
        files = server.folder(guest.point) / "files"
        with (files / "large").open("rb") as opened, (files / "inline").open("rb") as small:
            forget(repository, guest.point.point)
            for _ in range(3):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert opened.seek(0) == 0
                assert opened.read() == guest.contents["/large"]
            assert small.read() == guest.contents["/inline"]
        assert wait_until(lambda: not (files / "large").exists())


def test_nothing_can_be_written_or_run(files: Path) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(OSError, match="Read-only"):
            os.open(files / "small", flags)
    with pytest.raises(OSError, match=r"No such device|Permission"):
        os.open(files / "null", os.O_RDONLY)
    with pytest.raises(PermissionError):
        subprocess.run([files / "program"], check=False)


def test_a_point_without_files_is_an_error(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repository", 1 << 16)
    point = add_point(repository, {"root": bytes(1 << 16)})
    with serving(repository, tmp_path / "mnt") as server:
        assert outcome(server.folder(point) / "files") == errno.EIO
        assert read_at(server.disk(point, "root"), 0, 10) == bytes(10)
