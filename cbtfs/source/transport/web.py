"""Read ranges of datastore files over HTTPS, with the cookie of the vSphere session."""

import http.client
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPSConnection
from ssl import SSLContext
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.secret import Secret
from cbtfs.source.transport.answers import CALL_SECONDS, AnswerLimits, BoundedConnection

log = logging.getLogger(__name__)

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")
_PATH: Final = re.compile(r"\[([^\]]*)\] ?(.+)\Z")
_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN = 200, 206, 401, 403


class DatastorePath(NamedTuple):
    """The two parts of `[datastore] folder/name`."""

    datastore: str
    file: str


def is_path(path: str) -> bool:
    """Return whether *path* is the path of a datastore file."""
    return _PATH.match(path) is not None


def parse_path(path: str) -> DatastorePath:
    """Split a datastore path; raise SourceUnavailable if *path* has another form."""
    match = _PATH.match(path)
    if match is None:
        raise SourceUnavailable(f"{printable(path)} is not the path of a datastore file")
    return DatastorePath(match[1], match[2])


class Web(NamedTuple):
    """The server whose datastores are read, and the session that authorizes the reads."""

    host: str
    port: int
    context: SSLContext
    cookie: Callable[[], Secret]
    """Return the cookie of the current session."""
    login: Callable[[], int]
    """Return the number of the current login."""
    renew: Callable[[int], None]
    """Log in again, unless another thread did since the login with that number."""
    seconds: float
    """Timeout of one receive."""
    pauses: tuple[float, ...]
    """Seconds before each retry after a lost connection or a server error."""
    lend: Callable[[], AbstractContextManager[HTTPSConnection]]
    """Lend one of the connections of the session for a call of the SOAP service; an error in the
    block closes it."""
    disturbances: Callable[[], int] = lambda: 0
    """Return the number of outages and expired logins so far."""
    outlast: Callable[[int], bool] = lambda before: False
    """Wait for an unavailable server. Return whether there were more disturbances than *before*
    and the server is available again."""
    call: float = CALL_SECONDS
    """Timeout of one whole answer."""
    version: str = "urn:vim25"
    """Namespace and version of the API that the session uses, for SOAPAction."""
    busy: tuple[float, ...] = ()
    """Seconds before each retry while a host is busy."""
    sleep: Callable[[float], None] = time.sleep
    """Wait before a retry; raise Stopped when the run is cancelled."""


class Answer(NamedTuple):
    status: int
    reason: str
    content_range: str
    body: bytes


class DatastoreFiles:
    """Reads datastore files. Safe to use from several threads; each has its own connection."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._lock = threading.Lock()
        self._idle: list[BoundedConnection] = []

    def url(self, path: str, datacenter: str) -> str:
        """Return the URL of a file (vSphere API reference, FileManager)."""
        parts = parse_path(path)
        query = urlencode({"dcPath": datacenter, "dsName": parts.datastore}, quote_via=quote)
        return f"/folder/{quote(parts.file)}?{query}"

    def load(self, path: str, datacenter: str, limit: int) -> bytes:
        """Return a whole file of at most *limit* bytes."""
        answer = self._get(path, self.url(path, datacenter), {}, limit + 1)
        if answer.status != _OK:
            raise SourceUnavailable(f"cannot read {printable(path)}: {_status(answer)}")
        if len(answer.body) > limit:
            raise SourceUnavailable(
                f"cannot read {printable(path)}: it has more than {limit} bytes"
            )
        return answer.body

    def read(self, path: str, url: str, extent: Extent, size: int) -> bytes:
        """Return exactly the bytes of *extent* of a file of *size* bytes, by a range request."""
        headers = {"Range": f"bytes={extent.start}-{extent.end - 1}"}
        answer = self._get(path, url, headers, extent.length)
        if answer.status == _OK:
            raise SourceUnavailable(
                f"cannot read parts of {printable(path)}: the server ignores the Range header"
            )
        match = _CONTENT_RANGE.match(answer.content_range)
        wanted = (extent.start, extent.end - 1, size)
        if answer.status != _PARTIAL or not match or tuple(map(int, match.groups())) != wanted:
            raise SourceUnavailable(
                f"cannot read {printable(path)} at {extent.start}: {_status(answer)}"
            )
        if len(answer.body) != extent.length:
            raise SourceUnavailable(
                f"cannot read {printable(path)} at {extent.start}: the answer is too short"
            )
        return answer.body

    def _get(self, path: str, url: str, headers: dict[str, str], limit: int) -> Answer:
        why = ""
        renewed = False
        pauses = list(self._web.pauses)
        before = self._web.disturbances()
        while True:
            login = self._web.login()
            try:
                answer = self._exchange(url, headers, limit)
            except (OSError, http.client.HTTPException) as exc:
                why = str(exc) or type(exc).__name__
            else:
                if answer.status == _UNAUTHORIZED and not renewed:
                    renewed = True
                    self._web.renew(login)
                    continue
                if answer.status in (_UNAUTHORIZED, _FORBIDDEN):
                    raise AccessDenied(
                        f"cannot read {printable(path)}: {_status(answer)}: the user needs "
                        "Datastore.Browse and Datastore.FileManagement"
                    )
                if answer.status < 500:
                    return answer
                why = _status(answer)
            if pauses:
                log.info("%s: %s: retrying", printable(path), why)
                self._web.sleep(pauses.pop(0))
            elif self._web.outlast(before):
                before = self._web.disturbances()
                renewed, pauses = False, list(self._web.pauses)
            else:
                raise SourceUnavailable(f"cannot read {printable(path)}: {why}")

    def _exchange(self, url: str, headers: dict[str, str], limit: int) -> Answer:
        connection = self._connection()
        try:
            cookie = self._web.cookie().reveal()
            connection.request("GET", url, headers={**headers, "Cookie": cookie})
            answer = connection.getresponse()
            declared = answer.length
            body = answer.read(limit)
            if declared is not None and len(body) < min(declared, limit):
                raise http.client.IncompleteRead(b"", declared - len(body))
            is_whole = answer.isclosed() or not answer.read(1)
        except BaseException:
            connection.close()
            raise
        if is_whole:
            with self._lock:
                self._idle.append(connection)
        else:
            connection.close()
        content_range = answer.getheader("Content-Range", "")
        return Answer(answer.status, answer.reason, content_range, body)

    def _connection(self) -> BoundedConnection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        web = self._web
        return BoundedConnection(
            web.host,
            web.port,
            timeout=web.seconds,
            context=web.context,
            limits=AnswerLimits(web.call),
        )

    def close(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()


def _status(answer: Answer) -> str:
    return f"the server answers {answer.status} {answer.reason}"
