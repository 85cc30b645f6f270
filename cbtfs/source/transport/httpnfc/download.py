"""Download the file of an exported disk over HTTPS, from the host that the lease names."""

import math
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.answers import AnswerLimits, AnswerRefused, BoundedConnection
from cbtfs.source.transport.web import Web
from cbtfs.source.vsphere.connect.tls import pinned_to

_PIECE: Final = 1 << 16
_LEAST_BYTES: Final = 1 << 20
"""A download that delivers less than this within the timeout of an answer has failed."""
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class DeviceUrl:
    """The address of one disk of a lease."""

    url: str
    """It contains the ticket: a secret. The host may be `*`, the server of the session."""
    thumbprint: str | None
    """Digest of the host's certificate, AA:BB:…; None if the host is verified like the server."""


class Download:
    """The bytes of one exported file, from the start."""

    def __init__(self, web: Web, device: DeviceUrl, size: int) -> None:
        """Send the request; *size* is that of the disk in bytes.

        Raises:
            SourceUnavailable: the URL is invalid, or the host answers with an error.
            OSError, HTTPException: the host does not answer, or its certificate is another one.
        """
        url, port = _parsed(device.url)
        host = web.host if url.hostname == "*" else str(url.hostname)
        is_server = (host, port) == (web.host, web.port)
        context = web.context
        if not is_server and device.thumbprint is not None:
            context = pinned_to(device.thumbprint)
        # Compressed data may be larger than the disk: up to 1 %, plus tables and markers.
        self._limit = size + size // 32 + (16 << 20)
        self._connection = BoundedConnection(
            host,
            port,
            timeout=web.seconds,
            context=context,
            limits=AnswerLimits(math.inf, self._limit),
        )
        self._seconds = web.call
        self._total = self._counted = 0
        # The ticket in the URL is the login; other hosts must not see the cookie.
        headers = {"Accept-Encoding": "identity"}
        if is_server:
            headers["Cookie"] = web.cookie().reveal()
        try:
            self._connection.request("GET", url.path or "/", headers=headers)
            self._answer = self._connection.getresponse()
            if self._answer.status != _OK:
                raise SourceUnavailable(
                    f"{self._connection.server} does not export the disk: it answers "
                    f"{self._answer.status} {self._answer.reason}"
                )
        except BaseException:
            self._connection.close()
            raise
        self._due = time.monotonic() + self._seconds

    def read(self) -> bytes:
        """Return more bytes; none at the end of the answer."""
        data = self._answer.read1(_PIECE)
        self._total += len(data)
        self._counted += len(data)
        if self._total > self._limit:
            raise AnswerRefused(
                f"{self._connection.server} exports more than {self._limit} bytes: check which "
                "program answers there"
            )
        if self._counted >= _LEAST_BYTES:
            self._due, self._counted = time.monotonic() + self._seconds, 0
        elif data and time.monotonic() > self._due:
            raise TimeoutError(
                f"{self._connection.server} exported only {self._counted} bytes in "
                f"{self._seconds:.0f} s"
            )
        return data

    def close(self) -> None:
        """Close the connection."""
        self._answer.close()
        self._connection.close()


def _parsed(text: str) -> tuple[SplitResult, int]:
    """Return the parts of a URL and its port; SourceUnavailable if it is no HTTPS URL."""
    try:
        url = urlsplit(text)
        port = url.port or 443
    except ValueError as exc:
        raise SourceUnavailable("the export lease has an invalid URL") from exc
    if url.scheme != "https" or not url.hostname or "@" in url.netloc:
        raise SourceUnavailable("the export lease has a URL that is not HTTPS")
    return url, port
