"""Pictures that QEMU writes: it runs a hostile guest, so its files are read with care."""

import os
import stat
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 << 20
"""Maximum size of a picture; the memory of QEMU's screen has 16 MiB."""


def read_picture(path: Path) -> bytes:
    """Return the content of a file that QEMU has written; empty if it is no picture.

    A link is not followed, and a file of more than MAX_BYTES is not read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
            return b""
        return file.read(MAX_BYTES)
