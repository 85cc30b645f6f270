"""Ranges of files on a vSphere's datastores, over the HTTPS that its sessions use."""

import http.client
import re
import threading
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.secret import Secret
from cbtfs.source.transport.answers import CALL_SECONDS, BoundedConnection

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")
_PATH: Final = re.compile(r"\[([^\]]*)\] ?(.+)\Z")
_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN = 200, 206, 401, 403


class DatastorePath(NamedTuple):
    """`[datastore] folder/name`, in its parts."""

    datastore: str
    file: str


def is_path(path: str) -> bool:
    """Whether that is the path of a file on a datastore."""
    return _PATH.match(path) is not None


def parse_path(path: str) -> DatastorePath:
    """The parts of a datastore path; SourceUnavailable if it is none."""
    found = _PATH.match(path)
    if found is None:
        raise SourceUnavailable(f"{printable(path)} is not a file on a datastore")
    return DatastorePath(found[1], found[2])


class Web(NamedTuple):
    """The server whose datastores are read, and the session that allows it."""

    host: str
    port: int
    context: SSLContext
    cookie: Callable[[], Secret]
    """Of the session that is in force."""
    login: Callable[[], int]
    """Its number."""
    renew: Callable[[int], None]
    """Log in anew, unless that happened since that number."""
    seconds: float
    """For one answer."""
    pauses: tuple[float, ...]
    """Between tries after a lost connection or an error of the server."""
    disturbances: Callable[[], int] = lambda: 0
    """How often the server went away or the login ended so far."""
    outlast: Callable[[int], bool] = lambda before: False
    """Wait for a server that is away; whether there were more of these since, and it is back."""
    call: float = CALL_SECONDS
    """Seconds for one whole answer, however slowly its bytes come."""


class Answer(NamedTuple):
    status: int
    reason: str
    content_range: str
    body: bytes


class DatastoreFiles:
    """Reads files; safe to use from several threads, each with a connection of its own."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._lock = threading.Lock()
        self._idle: list[BoundedConnection] = []

    def url(self, path: str, datacenter: str) -> str:
        """Where a file is, by the rule of the vSphere API reference, FileManager."""
        place = parse_path(path)
        query = urlencode({"dcPath": datacenter, "dsName": place.datastore}, quote_via=quote)
        return f"/folder/{quote(place.file)}?{query}"

    def load(self, path: str, datacenter: str, limit: int) -> bytes:
        """A small file as a whole."""
        answer = self._get(path, self.url(path, datacenter), {}, limit + 1)
        if answer.status != _OK:
            raise SourceUnavailable(f"cannot read {printable(path)}: {_words(answer)}")
        if len(answer.body) > limit:
            raise SourceUnavailable(f"cannot read {printable(path)}: more than {limit} bytes")
        return answer.body

    def read(self, path: str, url: str, extent: Extent, size: int) -> bytes:
        """Exactly those bytes of a file that has *size* bytes; the server has to know ranges."""
        headers = {"Range": f"bytes={extent.start}-{extent.end - 1}"}
        answer = self._get(path, url, headers, extent.length)
        if answer.status == _OK:
            raise SourceUnavailable(
                f"cannot read parts of {printable(path)}: the server does not honour Range"
            )
        found = _CONTENT_RANGE.match(answer.content_range)
        wanted = (extent.start, extent.end - 1, size)
        if answer.status != _PARTIAL or not found or tuple(map(int, found.groups())) != wanted:
            raise SourceUnavailable(
                f"cannot read {printable(path)} at {extent.start}: {_words(answer)}"
            )
        if len(answer.body) != extent.length:
            raise SourceUnavailable(f"{printable(path)} ended early at {extent.start}")
        return answer.body

    def _get(self, path: str, url: str, headers: dict[str, str], most: int) -> Answer:
        why = ""
        renewed = False
        pauses = list(self._web.pauses)
        before = self._web.disturbances()
        while True:
            login = self._web.login()
            try:
                answer = self._exchange(url, headers, most)
            except (OSError, http.client.HTTPException) as exc:
                why = str(exc) or type(exc).__name__
            else:
                if answer.status == _UNAUTHORIZED and not renewed:
                    renewed = True
                    self._web.renew(login)
                    continue
                if answer.status in (_UNAUTHORIZED, _FORBIDDEN):
                    raise AccessDenied(
                        f"cannot read {printable(path)}: {_words(answer)}: the user needs "
                        "Datastore.Browse and Datastore.FileManagement"
                    )
                if answer.status < 500:
                    return answer
                why = _words(answer)
            if pauses:
                time.sleep(pauses.pop(0))
            elif self._web.outlast(before):
                before = self._web.disturbances()
                renewed, pauses = False, list(self._web.pauses)
            else:
                raise SourceUnavailable(f"cannot read {printable(path)}: {why}")

    def _exchange(self, url: str, headers: dict[str, str], most: int) -> Answer:
        connection = self._connection()
        try:
            cookie = self._web.cookie().reveal()
            connection.request("GET", url, headers={**headers, "Cookie": cookie})
            answer = connection.getresponse()
            promised = answer.length
            body = answer.read(most)
            if promised is not None and len(body) < min(promised, most):
                raise http.client.IncompleteRead(b"", promised - len(body))
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
            call_seconds=web.call,
        )

    def close(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()


def _words(answer: Answer) -> str:
    return f"the server says {answer.status} {answer.reason}"
