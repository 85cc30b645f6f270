"""The errno and the log line of a failed request."""

import errno
import logging

from cbtfs.errors import CbtfsError

log = logging.getLogger(__name__)


def errno_of(exc: Exception) -> int:
    """Return the errno of *exc*. Log it if it is damage or a bug."""
    if isinstance(exc, CbtfsError):
        if exc.errno == errno.EIO:
            log.error("%s", exc)
        return exc.errno
    log.error("a request failed; this is a bug", exc_info=exc)
    return errno.EIO
