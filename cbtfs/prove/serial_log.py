"""The file with the output of a guest on its serial port, which a guest can fill without end."""

import os
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 64 << 10
MAX_BYTES: Final = 16 << 20
"""Space above which the file gets a hole in place of all but its end."""
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STAT_BLOCK: Final = 512


def load_tail(path: Path) -> str:
    """Return the last TAIL_BYTES of the output, and bound the space of the file.

    QEMU, which writes the file, continues at the same offset.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return ""
    try:
        facts = os.fstat(descriptor)
        start = max(facts.st_size - TAIL_BYTES, 0)
        data = os.pread(descriptor, TAIL_BYTES, start)
        if facts.st_blocks * _STAT_BLOCK > MAX_BYTES:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, data, start)
    finally:
        os.close(descriptor)
    return data.decode(errors="replace").replace("\r", "")
