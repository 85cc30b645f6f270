"""What a failed request is answered with, and what the log keeps of it."""

import errno
import logging

from cbtfs.errors import CbtfsError

log = logging.getLogger(__name__)


def errno_of(exc: Exception) -> int:
    """The errno for *exc*; what a user may have to look into is logged, once."""
    if isinstance(exc, CbtfsError):
        if exc.errno == errno.EIO:
            log.error("%s", exc)
        return exc.errno
    log.error("a request failed; this is a bug", exc_info=exc)
    return errno.EIO
