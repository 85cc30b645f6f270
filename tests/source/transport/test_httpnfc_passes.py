"""Reads of any extent from a stream that can only be read in order."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.httpnfc.passes import StreamedDisk
from tests.source.transport.exported import exported, grains, raw
from tools.vsim.data.streamed import GRAIN, StreamFault

SIZE = 30 * GRAIN + 512
CONTENT = grains(0, 1, 5, 6, 7, 20, 29, 30)
FILE = exported(CONTENT, SIZE)
DISK = raw(CONTENT, SIZE)


class Stream:
    """A file from which a read returns at most *step* bytes; it breaks after *limit* bytes."""

    def __init__(self, data: bytes, step: int = 50_000, limit: int | None = None) -> None:
        self._data = data
        self._step = step
        self._limit = limit
        self._at = 0
        self.is_closed = False

    def read(self) -> bytes:
        if self._limit is not None and self._at >= self._limit:
            raise ConnectionResetError("the cable is out")
        piece = self._data[self._at : self._at + self._step]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        self.is_closed = True


def disk_of(
    opened: list[Stream], make: Callable[[int], Stream], kept: int = 8 * GRAIN, retries: int = 0
) -> StreamedDisk:
    numbers = count()

    def open_stream() -> Stream:
        opened.append(make(next(numbers)))
        return opened[-1]

    return StreamedDisk(SIZE, open_stream, (0.0,) * retries, kept)


def test_reads_that_go_forward_take_one_pass() -> None:
    opened = list[Stream]()
    disk = disk_of(opened, lambda _: Stream(FILE))
    content = b"".join(
        disk.read(Extent(at, min(100_000, SIZE - at))) for at in range(0, SIZE, 100_000)
    )

    assert content == DISK
    assert disk.is_whole
    assert len(opened) == 1
    disk.close()
    assert opened[0].is_closed


def test_a_read_behind_the_kept_grains_starts_another_pass() -> None:
    opened = list[Stream]()
    disk = disk_of(opened, lambda _: Stream(FILE), kept=2 * GRAIN)
    ends = disk.read(Extent(SIZE - 100, 100)), disk.read(Extent(0, 100))

    assert ends == (DISK[-100:], DISK[:100])
    assert len(opened) == 2


@settings(max_examples=25, deadline=None)
@given(
    reads=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 300_000)), max_size=12),
    kept=st.integers(1, 40),
    breaks=st.lists(st.integers(0, len(FILE)), max_size=3),
    step=st.integers(500, 100_000),
)
def test_threads_that_read_anywhere_get_the_bytes_of_the_disk(
    reads: list[tuple[int, int]], kept: int, breaks: list[int], step: int
) -> None:
    limits = dict(enumerate(breaks))
    disk = disk_of(
        [], lambda n: Stream(FILE, step, limits.get(n)), kept=kept * GRAIN, retries=len(breaks)
    )
    extents = [Extent(at, min(length, SIZE - at)) for at, length in reads]
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(disk.read, extents))

    assert contents == [DISK[extent.start : extent.end] for extent in extents]


def test_a_lost_connection_is_retried_a_limited_number_of_times() -> None:
    opened = list[Stream]()
    disk = disk_of(opened, lambda _: Stream(FILE, limit=60_000), retries=2)

    with pytest.raises(SourceUnavailable, match="the cable is out"):
        disk.read(Extent(0, SIZE))
    with pytest.raises(SourceUnavailable, match="the cable is out"):
        disk.read(Extent(0, 1))

    assert len(opened) == 3
    assert not disk.is_whole


def test_a_file_that_ends_too_early_is_read_again() -> None:
    opened = list[Stream]()
    disk = disk_of(opened, lambda n: Stream(FILE if n else FILE[:-SIZE]), retries=1)

    assert disk.read(Extent(0, SIZE)) == DISK


@pytest.mark.parametrize("fault", ["no-footer", "directory", "trailing"])
def test_the_end_of_the_disk_is_read_only_after_the_file_is_verified(fault: StreamFault) -> None:
    file = exported(CONTENT, SIZE, fault)
    disk = disk_of([], lambda _: Stream(file, step=512), retries=1)

    assert disk.read(Extent(0, GRAIN)) == DISK[:GRAIN]
    with pytest.raises(SourceUnavailable):
        disk.read(Extent(SIZE - 1, 1))


def test_a_failure_ends_every_thread_that_waits() -> None:
    gate = threading.Event()

    class Slow(Stream):
        def read(self) -> bytes:
            gate.wait(10)
            return super().read()

    disk = disk_of([], lambda _: Slow(FILE, limit=1000))
    errors = list[Exception]()

    def read(at: int) -> None:
        try:
            disk.read(Extent(at, GRAIN))
        except SourceUnavailable as exc:
            errors.append(exc)

    threads = [threading.Thread(target=read, args=(at * GRAIN,)) for at in (6, 20, 29)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)

    assert len(errors) == 3
    assert not any(thread.is_alive() for thread in threads)
