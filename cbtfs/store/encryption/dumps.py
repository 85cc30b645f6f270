"""Keeps the keys of this process out of core dumps.

Compiled code also keeps its copies of keys in memory that is locked and never dumped
(native/secret). Python's own objects are protected by the settings here alone.
"""

import os
import resource
from contextlib import suppress
from typing import Final

_FILTER: Final = "/proc/self/coredump_filter"
_HEADERS_ONLY: Final = b"0x10"
"""No memory (core(5)): programs to which the kernel pipes a dump may ignore RLIMIT_CORE."""


def forbid_dumps() -> None:
    """Forbid core dumps of this process, and of its children."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # /proc may be absent.
        fd = os.open(_FILTER, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _HEADERS_ONLY)
        finally:
            os.close(fd)
