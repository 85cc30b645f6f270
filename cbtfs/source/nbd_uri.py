"""URIs of NBD exports: hide their secrets, refuse TLS without verification."""

import os
from urllib.parse import parse_qsl, urlsplit

from cbtfs.core.names import printable
from cbtfs.errors import UsageError


def refuse_unverified(uri: str) -> None:
    """Raise UsageError if the server of a TLS URI would not be verified.

    libnbd before 1.20.2 takes any server where it finds no authority, and any behind a Unix
    socket (CVE-2024-7383; Debian 12 has 1.14).
    """
    try:
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query))
    except ValueError as exc:
        raise UsageError(f"{printable(uri[:80])} is no URI: {exc}") from exc
    scheme = parts.scheme.lower()
    if not scheme.startswith("nbds") or "tls-psk-file" in query:
        return
    if query.get("tls-verify-peer", "").lower() in ("0", "f", "false", "n", "no", "off"):
        return  # the user wrote it
    folder = query.get("tls-certificates")
    if scheme == "nbds+unix":
        raise UsageError(
            "a server behind a Unix socket cannot be verified by its certificate: use "
            "tls-psk-file=FILE, or nbds://HOST, or nbd+unix:// if nobody else can reach the socket"
        )
    if folder is None or not os.path.isfile(os.path.join(folder, "ca-cert.pem")):
        raise UsageError(
            "nbds:// needs to know whom to trust: add ?tls-certificates=DIR, with the authority "
            "in DIR/ca-cert.pem, or ?tls-psk-file=FILE"
        )


def without_secrets(uri: str) -> str:
    """Return the URI for messages, without user and password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "the NBD server"
    host = parts.netloc.rpartition("@")[2]
    query = f"?{parts.query}" if "socket=" in parts.query else ""
    return printable(f"{parts.scheme}://{host}{parts.path}{query}")
