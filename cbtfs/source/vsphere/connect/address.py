"""The address of a vCenter or an ESXi host."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cbtfs.errors import UsageError

PORT: Final = 443


@dataclass(frozen=True, slots=True)
class Address:
    """A host and its HTTPS port."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORT else f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse HOST, HOST:PORT or https://HOST[:PORT][/sdk]; UsageError for any other form."""
    scheme, slashes, rest = text.partition("://")
    if slashes and scheme.lower() != "https":
        raise UsageError(f"--server {text}: only https is supported; give HOST or HOST:PORT")
    try:
        url = urlsplit(f"//{rest if slashes else text}")
        port = url.port
    except ValueError as exc:
        raise UsageError(f"--server {text}: {exc}") from exc
    if not url.hostname or url.path not in ("", "/", "/sdk", "/sdk/") or "@" in url.netloc:
        raise UsageError(f"--server {text} is not HOST or HOST:PORT")
    return Address(url.hostname, PORT if port is None else port)
