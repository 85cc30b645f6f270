"""Targets of a restore: zeroing of devices, and the number of pieces loaded ahead."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.ahead import ahead
from cbtfs.core.extent import Extent
from cbtfs.restore import target
from cbtfs.restore.target import DeviceTarget

PAGE = 4096
SIZE = 40 * PAGE


class Kernel:
    """Replacement for the ioctl that zeroes a range of a block device."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.asked: list[tuple[int, int]] = []

    def __call__(self, fd: int, request: int, argument: bytes) -> None:
        assert request == target._BLKZEROOUT
        start, length = target._RANGE.unpack(argument)
        self.asked.append((start, length))
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        os.pwrite(fd, bytes(length), start)


def zeroed(file: Path, kernel: Kernel, *extents: Extent, step: int = 8 * PAGE) -> bytes:
    """Return the content of a device of 0xFF bytes after *extents* are zeroed."""
    file.write_bytes(b"\xff" * SIZE)
    fd = os.open(file, os.O_RDWR)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cbtfs.restore.target.fcntl.ioctl", kernel)
            patch.setattr(target, "_STEP_BYTES", step)
            device = DeviceTarget(fd)
            for extent in extents:
                device.zero(extent)
    finally:
        os.close(fd)
    return file.read_bytes()


def expected(*extents: Extent) -> bytes:
    content = bytearray(b"\xff" * SIZE)
    for extent in extents:
        content[extent.start : extent.end] = bytes(extent.length)
    return bytes(content)


@given(st.integers(0, SIZE - 1), st.data(), st.sampled_from([0, errno.EOPNOTSUPP, errno.ENOTTY]))
def test_exactly_the_extent_is_zeroed_and_the_kernel_gets_whole_pages(
    tmp_path_factory: pytest.TempPathFactory, start: int, data: st.DataObject, number: int
) -> None:
    extent = Extent(start, data.draw(st.integers(1, SIZE - start)))
    kernel = Kernel(number)

    assert zeroed(tmp_path_factory.mktemp("zero") / "d", kernel, extent) == expected(extent)
    for at, length in kernel.asked:
        assert at % PAGE == length % PAGE == 0
        assert 0 < length <= 8 * PAGE
        assert extent.start <= at
        assert at + length <= extent.end


def test_large_ranges_are_zeroed_in_steps(tmp_path: Path) -> None:
    kernel = Kernel()
    zeroed(tmp_path / "d", kernel, Extent(1, SIZE - 2))

    assert kernel.asked == [(PAGE + n * 8 * PAGE, 8 * PAGE) for n in range(4)] + [
        (33 * PAGE, 6 * PAGE)
    ]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL])
def test_a_device_that_cannot_zero_is_asked_once(tmp_path: Path, number: int) -> None:
    kernel = Kernel(number)
    extents = Extent(0, 16 * PAGE), Extent(20 * PAGE, 4 * PAGE)

    assert zeroed(tmp_path / "d", kernel, *extents) == expected(*extents)
    assert kernel.asked == [(0, 8 * PAGE)]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EPERM])
def test_any_other_failure_to_zero_is_an_error(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        zeroed(tmp_path / "d", Kernel(number), Extent(0, 16 * PAGE))


def test_results_come_in_order_and_few_items_are_taken_ahead() -> None:
    taken: list[int] = []
    results = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    most = 0
    for result in ahead(lambda number: number, items(), threads=5):
        results.append(result)
        most = max(most, len(taken) - len(results))

    assert results == taken == list(range(50))
    assert most < 10


def test_work_that_fails_ends_the_rest() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results: list[int] = []
    with pytest.raises(ValueError, match="three"):
        results.extend(ahead(work, iter(range(1000))))

    assert results == [0, 1, 2]
