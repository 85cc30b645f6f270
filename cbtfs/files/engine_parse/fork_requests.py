"""Requests to a fork server, and its replies."""

import enum
import struct
from typing import Final

REQUEST: Final = struct.Struct("<BQ")
"""Operation, and the size of a volume or the number of a process."""
EXIT_CODE: Final = struct.Struct("<q")
"""Number of a process, or its exit code: negative for a signal."""
REQUEST_BYTES: Final = 64
RUNNING: Final = 1 << 32
"""Reply to WAIT if the process has not ended."""


class Operation(enum.IntEnum):
    """Operations of a fork server."""

    FORK = 1
    """Fork a process that serves the socket that comes with the request."""
    WAIT = 2
    """Wait a second for the end of a process."""
    END = 3
    """Kill a process and wait for its end."""
