"""Reads and writes that bypass the page cache equal those that use it."""

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.native import is_cached
from cbtfs.restore import direct
from cbtfs.restore.direct import UNIT, Direct
from cbtfs.restore.in_place_target import open_in_place
from cbtfs.restore.target import open_target
from tests.restore.test_restore import loop_device

_SIZE = 9 * UNIT + 777


def aligned(length: int) -> memoryview:
    """Return a buffer that begins at a page."""
    return memoryview(mmap.mmap(-1, max(length, 1)))[:length]


_RANGES = st.tuples(st.integers(0, _SIZE), st.integers(0, 5 * UNIT), st.booleans())


@settings(max_examples=30)
@given(st.lists(_RANGES, max_size=8))
def test_writes_and_reads_at_any_offset_are_those_of_a_bytearray(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("d")
    path, oracle = folder / "file", bytearray(os.urandom(_SIZE))
    path.write_bytes(oracle)
    with open_in_place(str(path), _SIZE, folder / "repository") as target:
        for number, (offset, length, is_page) in enumerate(ranges):
            start = offset // UNIT * UNIT if is_page else offset
            end = min(start + length, _SIZE)
            data = aligned(end - start)
            data[:] = bytes([number + 1]) * len(data)
            target.write(start, data)
            oracle[start:end] = data
            everything = aligned(_SIZE)
            target.read(0, everything)
            assert everything == oracle
        target.flush()
        target.drop_cache()
        target.read(0, everything := aligned(_SIZE))

    assert everything == oracle
    assert path.read_bytes() == oracle


def cached_bytes(path: Path) -> int:
    """Return how many bytes of a file are in the page cache, in whole pages.

    A read with RWF_NOWAIT tells nothing: it starts a read-ahead, and may then find its pages.
    """
    size = path.stat().st_size
    resident = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as pages:
        start = ctypes.c_char.from_buffer(pages)
        failed = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), resident
        )
        del start  # or the map cannot be closed
    assert not failed
    return sum(page & 1 for page in resident) * mmap.PAGESIZE


def test_whole_pages_of_a_new_file_stay_out_of_the_page_cache(tmp_path: Path) -> None:
    path, data = tmp_path / "file", aligned(64 * UNIT)
    data[:] = os.urandom(len(data))

    with open_target(path, 64 * UNIT + 5, may_overwrite=False) as target:
        target.write(0, data)
        target.write(64 * UNIT, b"12345")
        target.finish()

    assert cached_bytes(path) <= mmap.PAGESIZE  # the end of the file is no whole page
    assert path.read_bytes() == bytes(data) + b"12345"


def cold_file(path: Path, content: bytes) -> Path:
    """Write a file of which no page is cached."""
    path.write_bytes(content)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def test_reads_of_a_cold_target_stay_out_of_the_page_cache(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    path = cold_file(tmp_path / "file", content)

    with open_in_place(str(path), len(content), tmp_path / "repository") as target:
        data = aligned(len(content))
        for at in range(0, len(content), 64 * UNIT):
            target.read(at, data[at : at + 64 * UNIT])

    assert data == content
    assert cached_bytes(path) == 0


def test_a_target_is_cached_if_all_of_its_pages_are(tmp_path: Path) -> None:
    path = cold_file(tmp_path / "file", bytes(64 * UNIT + 5))
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        os.pread(file.fileno(), 2 * UNIT, 8 * UNIT)
        ranges = [(8 * UNIT, 2 * UNIT), (8 * UNIT + 1, UNIT), (7 * UNIT, 2 * UNIT), (0, 5)]

        assert [is_cached(file.fileno(), *part) for part in ranges] == [True, True, False, False]


def test_a_pipe_and_an_empty_range_have_no_cached_pages() -> None:
    ends = os.pipe()
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            is_cached(ends[0], 0, 1)
        with pytest.raises(ValueError, match="range"):
            is_cached(ends[0], 0, 0)
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("is_refused_at_open", [True, False])
def test_without_direct_access_the_page_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_refused_at_open: bool
) -> None:
    """As on a file system that refuses O_DIRECT: at open(2), or for each read and write."""
    path, data = tmp_path / "file", aligned(4 * UNIT)
    data[:] = os.urandom(len(data))
    if is_refused_at_open:
        monkeypatch.setattr(os, "O_DIRECT", os.O_DIRECTORY)
    else:
        monkeypatch.setattr(direct, "UNIT", 1)  # shorter than the unit of any storage

    with open_target(path, len(data) - 1, may_overwrite=False) as target:
        target.write(1, data[1:-1])
        target.write(0, data[:1])
        target.finish()
    with open_in_place(str(path), len(data) - 1, tmp_path / "repository") as opened:
        opened.drop_cache()
        content = aligned(len(data))
        opened.read(1, content[1:-1])

    assert path.read_bytes() == data[:-1]
    assert content[1:-1] == data[1:-1]


def test_a_device_is_written_and_read_directly(tmp_path: Path) -> None:
    file, data = tmp_path / "device", aligned(64 * UNIT)
    file.write_bytes(bytes(65 * UNIT))
    data[:] = os.urandom(len(data))
    with loop_device(file) as device:
        with open_target(device, 64 * UNIT + 5, may_overwrite=True) as target:
            target.write(0, data)
            target.write(64 * UNIT, b"12345")
            target.finish()
        with open_in_place(str(device), 65 * UNIT, tmp_path / "repository") as opened:
            content = aligned(65 * UNIT)
            opened.read(0, content)

        assert content == device.read_bytes()

    assert bytes(content) == (bytes(data) + b"12345").ljust(65 * UNIT, b"\0")


def test_an_error_of_the_storage_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cold_file(tmp_path / "file", bytes(UNIT))

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with path.open("r+b") as file, Direct(file.fileno()) as opened:
        monkeypatch.setattr(os, "pwrite", fail)
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(OSError, match="Input/output"):
            opened.write(0, aligned(UNIT))
        with pytest.raises(OSError, match="Input/output"):
            opened.read(0, aligned(UNIT))
