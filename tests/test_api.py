"""The Python API: file semantics against BytesIO, verified reads, leases, threads, cheap import."""

import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cbtfs
from cbtfs.api import read_ahead
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.store.repository import writing
from tests.make_points import BLOCK, add_point, new_repository

ROOT = Path(__file__).parents[1]
SIZE = 9 * (1 << 20) + 777
_CHANCE = random.Random(15)
IMAGE = b"".join(
    _CHANCE.randbytes(BLOCK) if _CHANCE.random() < 0.5 else bytes(BLOCK) * 3
    for _ in range(-(-SIZE // BLOCK))
)[:SIZE]
"""Larger than all that is read ahead at once."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cbtfs.Repository]:
    path = new_repository(tmp_path_factory.mktemp("api") / "repository")
    add_point(path, {"root": IMAGE, "empty": b""}, vm="web01")
    add_point(path, {"root": b"\7" * BLOCK + IMAGE[BLOCK:]}, vm="web01")
    add_point(path, {"root": b"\1" * BLOCK}, vm="web02")
    with cbtfs.open_repository(path) as opened:
        yield opened


@pytest.fixture
def disk(repository: cbtfs.Repository) -> Iterator[cbtfs.DiskFile]:
    with repository.open("web01@latest~1", "root") as opened:
        yield opened


OFFSETS = st.one_of(st.integers(0, SIZE + 9), st.sampled_from([0, 1, SIZE - 1, SIZE, 1 << 20]))
LENGTHS = st.one_of(st.integers(0, 9000), st.sampled_from([1 << 20, 2 << 20, SIZE]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), LENGTHS),
        st.tuples(st.just("readinto"), LENGTHS),
        st.tuples(st.just("seek"), OFFSETS),
        st.tuples(st.just("seek back"), st.integers(0, SIZE)),
        st.tuples(st.just("read_at"), LENGTHS),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(STEPS)
def test_a_disk_reads_as_a_file_of_its_bytes(
    repository: cbtfs.Repository, steps: list[tuple[str, int]]
) -> None:
    with repository.open("web01@latest~1", "root") as disk:
        _compare(disk, io.BytesIO(IMAGE), steps)


def _compare(disk: cbtfs.DiskFile, expected: io.BytesIO, steps: list[tuple[str, int]]) -> None:
    for kind, value in steps:
        if kind == "read":
            assert disk.read(value) == expected.read(value)
        elif kind == "readinto":
            ours, theirs = bytearray(value), bytearray(value)
            assert disk.readinto(ours) == expected.readinto(theirs)
            assert ours == theirs
        elif kind == "seek":
            assert disk.seek(value) == expected.seek(value)
        elif kind == "seek back":
            assert disk.seek(-value, os.SEEK_END) == expected.seek(-value, os.SEEK_END)
        else:
            start = expected.tell() // 2
            assert disk.read_at(start, value) == IMAGE[start : start + value]
        assert disk.tell() == expected.tell()


@pytest.mark.parametrize("step", [512, 70_000, 1 << 20, 5_000_000])
def test_sequential_reads_of_any_size_are_the_disk(disk: cbtfs.DiskFile, step: int) -> None:
    disk.seek(0)
    parts = []
    while part := disk.read(step):
        parts.append(part)

    assert b"".join(parts) == IMAGE


def test_a_disk_works_with_the_standard_library(disk: cbtfs.DiskFile) -> None:
    disk.seek(0)
    assert disk.read() == IMAGE
    disk.seek(SIZE - 10)
    assert disk.readall() == IMAGE[-10:]
    with_buffer = io.BufferedReader(disk, 100_000)
    with_buffer.seek(100)
    assert with_buffer.read(5_000) == IMAGE[100:5_100]
    with_buffer.detach()
    assert (disk.readable(), disk.seekable(), disk.writable()) == (True, True, False)


def test_threads_read_one_disk_at_once(disk: cbtfs.DiskFile) -> None:
    def read(seed: int) -> bool:
        chance = random.Random(seed)
        for _ in range(20):
            start, length = chance.randrange(SIZE), chance.choice([10, 5000, 3 << 20])
            if disk.read_at(start, length) != IMAGE[start : start + length]:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))


@pytest.mark.parametrize(
    "call",
    [
        "disk.seek(-1)",
        "disk.seek(0, 7)",
        "disk.read_at(-1, 5)",
        "disk.read_at(0, -5)",
        "disk.readinto_at(-1, bytearray(3))",
    ],
)
def test_an_invalid_offset_is_a_value_error(disk: cbtfs.DiskFile, call: str) -> None:
    with pytest.raises(ValueError, match=r"negative|whence"):
        eval(call, {"disk": disk})


def test_an_empty_disk_has_no_bytes_and_no_extents(repository: cbtfs.Repository) -> None:
    with repository.open("web01@latest~1", "empty") as disk:
        assert (disk.size, disk.read(), disk.read_at(0, 5)) == (0, b"", b"")
        assert list(disk.extents()) == []


def test_extents_cover_the_disk_and_say_where_data_is(disk: cbtfs.DiskFile) -> None:
    at = 0
    for extent in disk.extents():
        assert extent.start == at
        content = IMAGE[at : at + extent.length]
        assert any(content) == extent.is_data
        at += extent.length
    assert at == SIZE


def test_a_diff_covers_all_differences(repository: cbtfs.Repository, disk: cbtfs.DiskFile) -> None:
    with repository.open("web01@latest", "root") as newer:
        assert list(newer.diff(disk)) == [cbtfs.Change(0, BLOCK)]
        assert list(disk.diff(newer)) == [cbtfs.Change(0, BLOCK)]
        assert list(newer.diff(newer)) == []


def test_points_are_found_by_the_names_of_commands(repository: cbtfs.Repository) -> None:
    first, second, other = repository.points()

    assert [str(p) for p in repository.points("web*")] == [str(p) for p in (first, second, other)]
    assert repository.points("web02") == [other]
    assert repository.point("web01@latest~1") == repository.point(first.id[:12]) == first
    assert repository.find("web*@latest") == [second, other]
    assert repository.point(str(second)) == second
    assert repository.point("web01@2026-01-01T01:00", time_zone="Europe/Berlin") == second
    assert second.time.isoformat() == "2026-01-01T00:00:02+00:00"
    with pytest.raises(cbtfs.PointNotFound) as caught:
        repository.point("web1")
    assert caught.value.candidates == ("web01", "web02")
    with pytest.raises(cbtfs.PointNotFound):
        repository.open(first, "rot")
    with pytest.raises(cbtfs.UsageError):
        repository.point("web01@latest", time_zone="No/Where")


def test_an_open_file_keeps_its_point_until_it_is_closed(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    point = add_point(path, {"d": IMAGE}).point
    reader = (
        "import sys, cbtfs\n"
        "disk = cbtfs.open_repository(sys.argv[1]).open('vm', 'd')\n"
        "print('open', flush=True)\n"
        "sys.stdin.readline()\n"
        "sys.stdout.buffer.write(disk.read())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", reader, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with writing(path) as opened:
            opened.forget([point])
            prune(opened, PruneLimits(unused_share=0.0))
        output, _ = child.communicate(b"\n")

    assert output == IMAGE
    with cbtfs.open_repository(path) as repository, pytest.raises(cbtfs.PointNotFound):
        repository.open("vm", "d")


def test_sequential_reads_return_all_bytes_around_a_corrupt_block(tmp_path: Path) -> None:
    """What is read ahead is larger than what is asked for."""
    path = new_repository(tmp_path / "repository")
    content = _CHANCE.randbytes(2 << 20)
    add_point(path, {"d": content})
    (pack,) = (path / "packs").glob("*/*")
    data = bytearray(pack.read_bytes())
    bad = 300
    at = data.index(content[bad * BLOCK : bad * BLOCK + 64])
    data[at] ^= 1
    pack.write_bytes(data)
    with cbtfs.open_repository(path) as repository, repository.open("vm", "d") as disk:
        for block in range(len(content) // BLOCK):
            if block == bad:
                with pytest.raises(cbtfs.DataCorrupt, match=f"bytes {bad * BLOCK} to"):
                    disk.read(BLOCK)
                assert disk.tell() == bad * BLOCK
                disk.seek(BLOCK, os.SEEK_CUR)
            else:
                assert disk.read(BLOCK) == content[block * BLOCK : (block + 1) * BLOCK]


def _read_in_pieces(disk: cbtfs.DiskFile) -> None:
    while disk.read(1 << 16):
        pass


def test_corrupt_data_is_an_error_of_each_way_to_read(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": IMAGE[: 4 << 20]})
    for pack in (path / "packs").glob("*/*"):
        data = bytearray(pack.read_bytes())
        middle = len(data) // 3
        data[middle : middle + 8] = bytes(byte ^ 0xFF for byte in data[middle : middle + 8])
        pack.write_bytes(data)
    with cbtfs.open_repository(path) as repository, repository.open("vm", "d") as disk:
        with pytest.raises(cbtfs.DataCorrupt):
            disk.read()
        disk.seek(0)
        with pytest.raises(cbtfs.DataCorrupt):
            _read_in_pieces(disk)
        with pytest.raises(cbtfs.DataCorrupt):
            disk.read_at(0, disk.size)
        assert disk.read_at(0, 100) == IMAGE[:100]


def test_a_file_object_is_not_writable_as_the_standard_library_expects(
    disk: cbtfs.DiskFile,
) -> None:
    assert not disk.writable()
    with pytest.raises(io.UnsupportedOperation):
        disk.write(b"1")
    with pytest.raises(io.UnsupportedOperation):
        disk.writelines([b"1"])
    with pytest.raises(io.UnsupportedOperation):
        disk.truncate(5)
    with pytest.raises(io.UnsupportedOperation):
        disk.fileno()
    assert disk.tell() == 0


def test_a_closed_file_and_a_closed_repository_raise_value_errors(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": IMAGE[:BLOCK]})
    repository = cbtfs.open_repository(path)
    disk, other = repository.open("vm", "d"), repository.open("vm", "d")
    disk.close()
    disk.close()
    with pytest.raises(ValueError, match="closed file"):
        disk.read(1)
    with pytest.raises(ValueError, match="closed file"):
        disk.read_at(0, 1)
    repository.close()
    repository.close()
    with pytest.raises(ValueError, match="repository is closed"):
        other.read(1)
    with pytest.raises(ValueError, match="repository is closed"):
        repository.points()
    other.close()


def test_a_repository_is_opened_once_in_a_process_and_again_after_it_was_closed(
    tmp_path: Path,
) -> None:
    path = new_repository(tmp_path / "repository")
    with (
        cbtfs.open_repository(path),
        pytest.raises(cbtfs.UsageError, match="open in this process already"),
    ):
        cbtfs.open_repository(path)
    with cbtfs.open_repository(str(path)) as repository:
        assert repository.points() == []
    with pytest.raises(cbtfs.RepositoryNotFound):
        cbtfs.open_repository(tmp_path)


def test_a_child_of_fork_is_refused(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"d": b"\1"})
    script = (
        "import os, sys, cbtfs\n"
        "disk = (repository := cbtfs.open_repository(sys.argv[1])).open('vm', 'd')\n"
        "if os.fork() == 0:\n"
        "    try: disk.read_at(0, 1)\n"
        "    except ValueError as exc: print(exc, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(disk.read_at(0, 1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )

    refused, read = done.stdout.splitlines()
    assert "opened by another process" in refused
    assert read == repr(b"\1")


def test_a_new_point_is_listed_while_the_repository_is_open(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    with cbtfs.open_repository(path) as repository:
        assert repository.points() == []
        add = "import sys; from pathlib import Path; from tests.make_points import add_point; "
        add += "add_point(Path(sys.argv[1]), {'d': b'12345'})"
        subprocess.run([sys.executable, "-c", add, str(path)], cwd=ROOT, check=True)

        (point,) = repository.points()
        with repository.open(point, "d") as disk:
            assert disk.read() == b"12345"


def test_importing_the_package_loads_no_other_module_of_it() -> None:
    """Every command imports it first."""
    script = "import sys, cbtfs; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert [name for name in done.stdout.split() if name.startswith("cbtfs")] == ["cbtfs"]


def test_every_exported_name_exists_and_no_other() -> None:
    assert {*cbtfs.__all__} <= {*dir(cbtfs)}
    for name in cbtfs.__all__:
        assert getattr(cbtfs, name).__module__.startswith("cbtfs.")
    with pytest.raises(AttributeError):
        getattr(cbtfs, "no_such_name")  # noqa: B009


def test_the_read_ahead_is_bounded(disk: cbtfs.DiskFile) -> None:
    disk.seek(0)
    while disk.read(100_000):
        assert len(disk._ahead._pieces) <= 2 * read_ahead.LOADERS
        assert len(disk._ahead._free) <= 2 * read_ahead.LOADERS
