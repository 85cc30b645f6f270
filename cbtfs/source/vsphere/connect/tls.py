"""Whom to believe: the system's CAs, those of a file, or exactly one certificate.

pyVmomi's own pinning is not used: it looks at a thumbprint only after the normal verification
failed, and not at all for loopback addresses. Here every connection has a context of ours.
"""

import errno
import hashlib
import hmac
import re
import socket
import ssl
from pathlib import Path
from typing import Any, Final

from cbtfs.errors import SourceUnavailable, UsageError
from cbtfs.source.vsphere.connect.address import Address

_SHA256: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}\Z")


class _ConnectedSocket(ssl.SSLSocket):
    """Is closed if its peer is gone before the handshake begins.

    The constructor of ssl.SSLSocket looks for a peer first, and leaves the socket open where there
    is none any more (CPython 3.11, SSLSocket._create).
    """

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "the server hung up") from exc


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def verifying(ca_file: Path | None = None) -> ssl.SSLContext:
    """Verifies chain and host name, by the CAs in *ca_file* alone or else by the system's."""
    try:
        context = _strict(ssl.create_default_context(cafile=ca_file))
    except (OSError, ssl.SSLError) as exc:
        raise UsageError(f"cannot use the CA file {ca_file}: {exc.strerror or exc}") from exc

    class VerifiedSocket(_ConnectedSocket):
        """Remembers the certificate that was believed."""

        believed = b""

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            type(self).believed = self.getpeercert(binary_form=True) or b""

    context.sslsocket_class = VerifiedSocket
    return context


def believed_certificate(context: ssl.SSLContext) -> bytes:
    """In DER, what the server showed in the last handshake that *context* believed.

    Nothing is asked of the network: whoever answers there now may be another one.
    """
    found = getattr(context.sslsocket_class, "believed", b"")
    if not isinstance(found, bytes) or not found:
        raise SourceUnavailable("no certificate of the server was believed so far")
    return found


def parse_thumbprint(text: str) -> str:
    """64 lower-case hex digits of a SHA-256 thumbprint, with or without colons."""
    if not _SHA256.match(text):
        raise UsageError(
            "--thumbprint is the certificate's SHA-256, 32 pairs of hex digits: "
            "openssl x509 -noout -fingerprint -sha256 shows it"
        )
    return text.replace(":", "").lower()


def pinned(address: Address, thumbprint: str, seconds: float) -> ssl.SSLContext:
    """Believes one certificate alone, whoever else vouches for another one.

    The certificate is fetched, compared, and made the only trust anchor; then its digest is
    compared again in every handshake, since an anchor could itself vouch for others.
    """
    certificate = fetch_certificate(address, seconds)
    _compare(certificate, thumbprint, address)
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False  # the certificate is known: what it is called says no more
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be self-signed
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(certificate))

    class PinnedSocket(_ConnectedSocket):
        """Ends a handshake with any other certificate before a byte is sent."""

        believed = certificate

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            found = self.getpeercert(binary_form=True) or b""
            if not hmac.compare_digest(hashlib.sha256(found).hexdigest(), thumbprint):
                raise ssl.SSLCertVerificationError("the certificate is not the pinned one")

    context.sslsocket_class = PinnedSocket
    return context


def _compare(certificate: bytes, thumbprint: str, address: Address) -> None:
    found = hashlib.sha256(certificate).hexdigest()
    if not hmac.compare_digest(found, thumbprint):
        raise SourceUnavailable(
            f"{address} shows another certificate than --thumbprint pins, SHA-256 {found}: "
            "find out why before you trust it"
        )


def fetch_certificate(
    address: Address, seconds: float, context: ssl.SSLContext | None = None
) -> bytes:
    """The certificate in DER that the server shows; believed by *context*, or only looked at."""
    if context is None:
        context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.host, address.port), seconds) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as stream,
        ):
            return stream.getpeercert(binary_form=True) or b""
    except OSError as exc:
        raise unreachable(address, exc) from exc


def unreachable(address: Address, exc: Exception) -> SourceUnavailable:
    """What a failed connection means for the user."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = getattr(exc, "verify_message", "") or exc.args[-1]
        return SourceUnavailable(
            f"the certificate of {address} is not trusted ({why}): give --ca-file, or pin it "
            "with --thumbprint"
        )
    if isinstance(exc, ssl.SSLError):
        return SourceUnavailable(f"no TLS with {address}: {exc.reason or exc}")
    return SourceUnavailable(f"cannot reach {address}: {exc or type(exc).__name__}")
