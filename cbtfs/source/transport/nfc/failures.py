"""Failures of NFC, one class for each reaction of the reader."""

from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.nfc.wire import Aio


class ConnectionLost(SourceUnavailable):
    """Raised if the connection to a host broke, or the host did not answer in time."""


class Abandoned(ConnectionLost):
    """Raised for a request whose connection ended because another request failed."""


class HostUnavailable(ConnectionLost):
    """Raised if the server gives no ticket now: the host is in maintenance or not connected."""


class Untrusted(SourceUnavailable):
    """Raised if the certificate of a host is not the one that the server named."""


class NfcRefused(SourceUnavailable):
    """Raised if the host refused a request; its session has ended."""

    def __init__(self, kind: Aio, code: int, text: str) -> None:
        super().__init__(f"the host refuses {kind.name} with error {code}: {text}")
        self.kind = kind
        self.code = code
        self.is_locked = _LOCKED in text


NO_MEMORY = 5
"""Code of a host without a free buffer: too many or too large requests."""
_LOCKED = "16392"
"""DiskLib's number of a lock, in the text of an error."""
