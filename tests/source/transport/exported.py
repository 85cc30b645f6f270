"""Exported disks for tests: stream-optimized files that the simulator's writer makes."""

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from tools.vsim.data.streamed import GRAIN, StreamFault, write_streamed


@contextmanager
def sparse_file(content: Mapping[int, bytes], size: int) -> Iterator[BinaryIO]:
    """A sparse file of *size* bytes with *content* at its offsets."""
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        for offset, data in content.items():
            os.pwrite(file.fileno(), data[: size - offset], offset)
        yield file


def exported(content: Mapping[int, bytes], size: int, fault: StreamFault = "") -> bytes:
    """Return the file of a disk of *size* bytes with *content* at its offsets."""
    target = io.BytesIO()
    with sparse_file(content, size) as file:
        write_streamed(file.fileno(), size, "disk.vmdk", target, fault)
    return target.getvalue()


def raw(content: Mapping[int, bytes], size: int) -> bytes:
    """Return the bytes of that disk."""
    disk = bytearray(size)
    for offset, data in content.items():
        part = data[: size - offset]
        disk[offset : offset + len(part)] = part
    return bytes(disk)


def grains(*numbers: int) -> dict[int, bytes]:
    """Return content that fills each of these grains with bytes of its own."""
    return {number * GRAIN: os.urandom(64) + b"grain %d " % number * 6000 for number in numbers}
