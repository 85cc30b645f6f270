"""The messages of 264 bytes that negotiate a session and switch it to AIO."""

import struct
from dataclasses import dataclass
from typing import Final

from cbtfs.core.names import printable
from cbtfs.source.transport.nfc.wire import (
    CLASSIC_BYTES,
    MAX_TEXT,
    Classic,
    NfcProtocolError,
)

_NAME: Final = b"cbtfs"
_OPERATION: Final = b"nbdmode"
_VERSION: Final = (12, 1)
_OLDEST: Final = 3
"""Oldest version of the host's library that has AIO."""
_FEATURES: Final = 3
TAG_BYTES: Final = 16


def _message(kind: Classic, *numbers: int, data: bytes = b"") -> bytes:
    body = struct.pack(f"<{1 + len(numbers)}I", kind, *numbers) + data
    return body.ljust(CLASSIC_BYTES, b"\0")


def opening(tag: str) -> tuple[bytes, ...]:
    """Return the first messages; each is written on its own (one TLS record).

    *tag* is that of THUMBPRINT_SHA2, at most 16 ASCII characters.
    """
    return (
        _message(Classic.TAG, data=tag.encode("ascii").ljust(TAG_BYTES, b"\0")),
        _message(Classic.PARAMETERS),
        _message(Classic.VERSION, *_VERSION),
    )


def switching() -> tuple[bytes, ...]:
    """Return the messages that switch the session to AIO."""
    return (
        _message(Classic.CLIENT, len(_NAME), len(_OPERATION)) + _NAME + _OPERATION,
        _message(Classic.FEATURES, _FEATURES),
        _message(Classic.AIO),
    )


def completion() -> bytes:
    """Return the message that ends a session."""
    return _message(Classic.COMPLETE)


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The host has answered the opening."""

    version: int


@dataclass(frozen=True, slots=True)
class Switched:
    """The host has switched to AIO."""


class Handshake:
    """The host's side of the negotiation: bytes in, events out.

    The status message comes before or after the version, depending on the version of the host.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._version: int | None = None
        self._has_status = False
        self._is_negotiated = False
        self.is_switched = False

    def feed(self, data: bytes) -> list[Negotiated | Switched]:
        """Add *data*; return the new events. Raise NfcProtocolError for any other message."""
        events: list[Negotiated | Switched] = []
        self._data += data
        while len(self._data) >= CLASSIC_BYTES:
            (kind,) = struct.unpack_from("<I", self._data)
            if kind == Classic.ERROR and not self._is_complete_error():
                break
            event = self._take(kind)
            if event is not None:
                events.append(event)
        if self.is_switched and self._data:
            raise NfcProtocolError("the host sends bytes that nobody asked for")
        return events

    def _take(self, kind: int) -> Negotiated | Switched | None:
        message = bytes(self._data[:CLASSIC_BYTES])
        if kind == Classic.STATUS and not self._has_status:
            self._has_status = True
        elif kind == Classic.VERSION and self._version is None:
            self._version = int.from_bytes(message[4:8], "little")
            if self._version < _OLDEST:
                raise NfcProtocolError(
                    f"version {self._version} of the host's NFC library is too old: use the "
                    "transport vddk, nbd or datastore"
                )
        elif kind == Classic.AIO and self._is_negotiated and not self.is_switched:
            self.is_switched = True
        else:
            raise NfcProtocolError(self._refusal(kind))
        del self._data[:CLASSIC_BYTES]
        if self.is_switched:
            return Switched()
        if self._has_status and self._version is not None and not self._is_negotiated:
            self._is_negotiated = True
            return Negotiated(self._version)
        return None

    def _is_complete_error(self) -> bool:
        return len(self._data) >= CLASSIC_BYTES + self._text_bytes()

    def _text_bytes(self) -> int:
        length = int.from_bytes(self._data[12:16], "little")
        if length > MAX_TEXT:
            raise NfcProtocolError(f"the host sends an error text of {length} bytes")
        return length

    def _refusal(self, kind: int) -> str:
        if kind == Classic.ERROR:
            text = bytes(self._data[CLASSIC_BYTES : CLASSIC_BYTES + self._text_bytes()])
            code = int.from_bytes(self._data[8:12], "little")
            return f"the host refuses NFC with error {code}: {shown(text)}"
        if kind == Classic.COMPLETE:
            return (
                "the host ends the NFC session at once: it is older than ESXi 7.0; use the "
                "transport vddk, nbd or datastore"
            )
        return f"the host sends message {kind} during the negotiation"


def shown(text: bytes) -> str:
    """Return a text of the host as one printable line, quoted."""
    return repr(printable(text.rstrip(b"\0").decode("utf-8", "replace"))[:300])
