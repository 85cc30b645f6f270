"""What VMware's library needs to log in by itself: for nbdkit's plugin, and for our own binding."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.source.secret import Secret

VDDK: Final = Path("/opt/vmware-vix-disklib-distrib")
"""Where VMware's documentation has it unpacked."""


@dataclass(frozen=True, slots=True)
class VddkLogin:
    """Where the library goes, as whom, and what it is to believe."""

    server: str
    port: int
    user: str
    password: Secret
    cookie: Callable[[], Secret]
    """Of the session that is in force, `vmware_soap_session="…"`."""
    certificate: Callable[[], bytes]
    """The server's certificate in DER, as the session believed it."""
    is_vcenter: bool
    libdir: Path = VDDK
    seconds: float = 60.0
    """For a server process to be ready, or a call of the library to return."""
    pauses: tuple[float, ...] = (5.0, 20.0, 60.0)
    """Before each new try after the host shut down or the connection was lost."""
    nfc_port: int = 902
    modes: str | None = None
    """The library's own transports that it may use, `san:nbdssl`; None: it chooses."""

    def thumbprint(self) -> str:
        """SHA-1 of the certificate, AA:BB:…, which is all that the library compares with."""
        digest = hashlib.sha1(self.certificate(), usedforsecurity=False).digest()
        return digest.hex(":").upper()
