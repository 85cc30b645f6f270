"""The errno and the log line of a failed request."""

import errno
import logging

from cbtfs.errors import CbtfsError, StoreUnreachable
from cbtfs.store.backend.base import NoReply

log = logging.getLogger(__name__)


def errno_of(exc: Exception) -> int:
    """Return the errno of *exc*. Log it if it is damage or a bug.

    An outage of a server is logged where it is noticed, once.
    """
    if isinstance(exc, NoReply):
        return errno.EIO
    if isinstance(exc, CbtfsError):
        if exc.errno == errno.EIO and not isinstance(exc, StoreUnreachable):
            log.error("%s", exc)
        return exc.errno
    log.error("a request failed; this is a bug", exc_info=exc)
    return errno.EIO
