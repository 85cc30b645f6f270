"""The text lines of the authentication daemon on port 902."""

import re
from dataclasses import dataclass
from typing import Final

from cbtfs.core.names import printable
from cbtfs.source.transport.nfc.wire import NfcProtocolError

MAX_LINE: Final = 1024
_SHA256: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}\Z")


class LineBuffer:
    """Turns received bytes into lines, whatever the boundaries of the packets."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def is_empty(self) -> bool:
        """Nothing was received after the last line."""
        return not self._data

    def feed(self, data: bytes) -> str | None:
        """Add *data*; return the first line if it is complete, without its end."""
        self._data += data
        end = self._data.find(b"\n")
        if end > MAX_LINE or (end < 0 and len(self._data) > MAX_LINE):
            raise NfcProtocolError(f"the host sends a line of more than {MAX_LINE} bytes")
        if end < 0:
            return None
        line = bytes(self._data[: end + 1])
        del self._data[: end + 1]
        if not line.endswith(b"\r\n"):
            raise NfcProtocolError("the host sends a line that does not end with CR LF")
        try:
            return line[:-2].decode("ascii")
        except UnicodeDecodeError:
            raise NfcProtocolError("the host sends a line that is not ASCII") from None


@dataclass(frozen=True, slots=True)
class Greeting:
    """The capabilities in the first line of the daemon."""

    capabilities: frozenset[str]

    @property
    def has_sha256(self) -> bool:
        """The daemon reports the SHA-256 of its certificate."""
        return "SHA256 supported" in self.capabilities

    @property
    def has_nfcssl(self) -> bool:
        """The daemon connects to NFC over TLS."""
        return "NFCSSL supported" in self.capabilities


def parse_greeting(line: str) -> Greeting:
    """Return the capabilities: words after the first colon, separated by commas.

    A suffix after a slash is no part of a word, as in `NFCSSL supported/t`.
    """
    code, _, rest = line.partition(" ")
    _, colon, words = rest.partition(": ")
    if code != "220" or not colon:
        raise NfcProtocolError(
            f"the host greets with {printable(line)!r}: no VMware authentication daemon listens "
            "there"
        )
    return Greeting(frozenset(word.strip().partition("/")[0] for word in words.split(",")))


def reply_text(line: str, code: str, command: str) -> str:
    """Return the text of a reply with *code*; NfcProtocolError quotes any other reply."""
    found, _, text = line.partition(" ")
    if found != code:
        raise AuthdRefused(f"the host answers {printable(line)!r} to {command}", found)
    return text


def thumbprint_of(text: str) -> bytes:
    """Return the SHA-256 in the reply of THUMBPRINT_SHA2, 32 bytes."""
    if not _SHA256.match(text):
        raise NfcProtocolError(f"{printable(text)!r} is not the SHA-256 of a certificate")
    return bytes.fromhex(text.replace(":", ""))


class AuthdRefused(NfcProtocolError):
    """Raised when the daemon answers with another code; 530 refuses the ticket."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
