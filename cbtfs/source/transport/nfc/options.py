"""Options of the transport `nfc`."""

from dataclasses import dataclass
from typing import Final, Literal

from cbtfs.source.transport.nfc.wire import Compression

Mode = Literal["ssl", "clear"]
MODES: Final[tuple[Mode, ...]] = ("ssl", "clear")


@dataclass(frozen=True, slots=True)
class NfcOptions:
    """How hosts are trusted and read. Times are in seconds."""

    mode: Mode = "ssl"
    """`clear`: the disk's data travels unencrypted; the ticket never does."""
    requires_sha256: bool = False
    """Refuse a host that only the SHA-1 of its certificate identifies."""
    compression: Compression = Compression.SKIPZ
    """Encoding that reads ask for; the host may send any fragment plain."""
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0
    """Maximum time without a complete answer while requests are in flight."""
    open_seconds: float = 120.0
    """Timeout of everything from the connection to the open disk."""
