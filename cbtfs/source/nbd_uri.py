"""URIs of NBD exports: refuse TLS without verification, hide secrets in messages."""

import os
from urllib.parse import parse_qsl, urlsplit

from cbtfs.core.names import printable
from cbtfs.errors import UsageError


def refuse_unverified(uri: str) -> None:
    """Raise UsageError if the server of a TLS URI would not be verified.

    Without an authority, or behind a Unix socket, libnbd before 1.20.2 accepts any server
    (CVE-2024-7383; Debian 12 has 1.14).
    """
    try:
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query))
    except ValueError as exc:
        raise UsageError(f"{printable(uri[:80])} is not a URI: {exc}") from exc
    scheme = parts.scheme.lower()
    if not scheme.startswith("nbds") or "tls-psk-file" in query:
        return
    if query.get("tls-verify-peer", "").lower() in ("0", "f", "false", "n", "no", "off"):
        return  # the user has disabled verification
    folder = query.get("tls-certificates")
    if scheme == "nbds+unix":
        raise UsageError(
            "the certificate of a server behind a Unix socket cannot be verified: use "
            "tls-psk-file=FILE, nbds://HOST, or nbd+unix:// if nobody else can access the socket"
        )
    if folder is None or not os.path.isfile(os.path.join(folder, "ca-cert.pem")):
        raise UsageError(
            "nbds:// needs a trusted authority: add ?tls-certificates=DIR with DIR/ca-cert.pem, "
            "or ?tls-psk-file=FILE"
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
