"""This process, as the objects that it creates name it."""

import os
import socket
from datetime import UTC, datetime

from cbtfs import __version__
from cbtfs.core.moment import format_moment
from cbtfs.core.shared import Origin


def this_process() -> Origin:
    """Return the origin of objects that this process creates now."""
    now = format_moment(datetime.now(UTC).replace(microsecond=0))
    return Origin(socket.gethostname(), os.getpid(), now, f"cbtfs {__version__}")
