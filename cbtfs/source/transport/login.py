"""Login data for VMware's library, used by nbdkit's plugin and by the vddk transport."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.source.secret import Secret

VDDK: Final = Path("/opt/vmware-vix-disklib-distrib")
"""Installation directory in VMware's documentation."""


@dataclass(frozen=True, slots=True)
class VddkLogin:
    """Server, user and trusted certificate of a login."""

    server: str
    port: int
    user: str
    password: Secret
    cookie: Callable[[], Secret]
    """Return the cookie of the current session, `vmware_soap_session="…"`."""
    certificate: Callable[[], bytes]
    """Return the server certificate that the session trusted, in DER."""
    is_vcenter: bool
    libdir: Path = VDDK
    seconds: float = 60.0
    """Timeout in seconds for the start of a server process and for a call of the library."""
    pauses: tuple[float, ...] = (5.0, 20.0, 60.0)
    """Seconds before each retry after the host shut down or the connection was lost."""
    sleep: Callable[[float], None] = time.sleep
    """Wait before a retry; raise Stopped when the run is cancelled."""
    nfc_port: int = 902
    modes: str | None = None
    """Transport modes that the library may use, `san:nbdssl`; None: all."""

    def thumbprint(self) -> str:
        """Return the SHA-1 of the certificate, AA:BB:…; the library checks nothing else."""
        digest = hashlib.sha1(self.certificate(), usedforsecurity=False).digest()
        return digest.hex(":").upper()
