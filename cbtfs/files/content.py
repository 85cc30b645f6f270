"""The content of a file of a guest as a stream."""

from collections.abc import Callable
from typing import Final

from cbtfs.files.tree import File

_ZEROS: Final = bytes(1 << 20)


def write_content(file: File, write: Callable[[bytes | memoryview], object]) -> None:
    """Write the whole content of a regular file, holes as zeros.

    Raises:
        CbtfsError: a part cannot be read; the parts before it are written.
    """
    done = 0
    for offset, data in file.parts():
        _zeros(offset - done, write)
        write(data)
        done = offset + len(data)
    _zeros(file.entry.size - done, write)


def _zeros(count: int, write: Callable[[bytes | memoryview], object]) -> None:
    for at in range(0, count, len(_ZEROS)):
        write(memoryview(_ZEROS)[: count - at])
