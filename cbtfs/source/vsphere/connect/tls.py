"""TLS contexts that trust the system's CAs, those of a file, or exactly one certificate.

cbtfs does not use the pinning of pyVmomi, which checks a thumbprint only after normal verification
has failed, and never for loopback addresses. Every connection uses a context from this module.
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

_SHA1_OR_SHA256: Final = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_SHA256_DIGITS: Final = 64
_SHA256: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}\Z")


class _ConnectedSocket(ssl.SSLSocket):
    """A socket that is closed if the peer disconnects before the handshake.

    The constructor of ssl.SSLSocket checks for a peer first and leaks the socket if the peer has
    disconnected (CPython 3.11, SSLSocket._create).
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
    """Return a context that verifies chain and host name.

    It trusts only the CAs in *ca_file*, or those of the system if *ca_file* is None.
    """
    try:
        context = _strict(ssl.create_default_context(cafile=ca_file))
    except (OSError, ssl.SSLError) as exc:
        raise UsageError(f"cannot use the CA file {ca_file}: {exc.strerror or exc}") from exc

    class VerifiedSocket(_ConnectedSocket):
        """Stores the trusted certificate."""

        trusted = b""

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            type(self).trusted = self.getpeercert(binary_form=True) or b""

    context.sslsocket_class = VerifiedSocket
    return context


def trusted_certificate(context: ssl.SSLContext) -> bytes:
    """Return the server certificate of the last handshake that *context* trusted, in DER.

    This does not connect again, because another server could answer now.
    """
    certificate = getattr(context.sslsocket_class, "trusted", b"")
    if not isinstance(certificate, bytes) or not certificate:
        raise SourceUnavailable("no certificate of the server was trusted so far")
    return certificate


def parse_thumbprint(text: str) -> str:
    """Return the 64 lower-case hex digits of a SHA-256 thumbprint, with or without colons."""
    if not _SHA256.match(text):
        raise UsageError(
            "--thumbprint must be the certificate's SHA-256, 32 pairs of hex digits: "
            "openssl x509 -noout -fingerprint -sha256 shows it"
        )
    return text.replace(":", "").lower()


def pinned(address: Address, thumbprint: str, seconds: float) -> ssl.SSLContext:
    """Return a context that trusts exactly one certificate.

    The certificate is fetched, compared with *thumbprint* and made the only trust anchor. Every
    handshake compares the digest again, because an anchor could sign other certificates.
    """
    certificate = fetch_certificate(address, seconds)
    _compare(certificate, thumbprint, address)
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False  # the pin identifies the server
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # accept one that is not self-signed
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(certificate))

    class PinnedSocket(_ConnectedSocket):
        """Rejects any other certificate before data is sent."""

        trusted = certificate

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            shown = self.getpeercert(binary_form=True) or b""
            if not hmac.compare_digest(hashlib.sha256(shown).hexdigest(), thumbprint):
                raise ssl.SSLCertVerificationError("the certificate is not the pinned one")

    context.sslsocket_class = PinnedSocket
    return context


def pinned_to(thumbprint: str) -> ssl.SSLContext:
    """Return a context that trusts exactly the certificate that a server of vSphere named.

    *thumbprint* is its SHA-1, AA:BB:…, or its SHA-256: the API has SHA-1 only. The handshake fails
    before data is sent if the host shows another one.
    """
    digits = thumbprint.replace(":", "").lower()
    if not _SHA1_OR_SHA256.match(digits):
        raise SourceUnavailable("the server names a thumbprint that is neither SHA-1 nor SHA-256")
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False  # the pin identifies the host
    context.verify_mode = ssl.CERT_NONE

    class NamedSocket(_ConnectedSocket):
        """Rejects any other certificate before data is sent."""

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            shown = self.getpeercert(binary_form=True) or b""
            digest = (
                hashlib.sha256(shown)
                if len(digits) == _SHA256_DIGITS
                else hashlib.sha1(shown, usedforsecurity=False)
            )
            if not hmac.compare_digest(digest.hexdigest(), digits):
                raise ssl.SSLCertVerificationError("the certificate is not the one that is named")

    context.sslsocket_class = NamedSocket
    return context


def _compare(certificate: bytes, thumbprint: str, address: Address) -> None:
    digest = hashlib.sha256(certificate).hexdigest()
    if not hmac.compare_digest(digest, thumbprint):
        raise SourceUnavailable(
            f"{address} shows another certificate than --thumbprint pins, SHA-256 {digest}: find "
            "out why before you trust it"
        )


def fetch_certificate(
    address: Address, seconds: float, context: ssl.SSLContext | None = None
) -> bytes:
    """Return the server's certificate in DER, verified by *context*, or unverified without one."""
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
    """Return the error for a failed connection."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = getattr(exc, "verify_message", "") or exc.args[-1]
        return SourceUnavailable(
            f"the certificate of {address} is not trusted ({why}): give --ca-file, or pin it "
            "with --thumbprint"
        )
    if isinstance(exc, ssl.SSLError):
        return SourceUnavailable(f"TLS with {address} failed: {exc.reason or exc}")
    return SourceUnavailable(f"cannot reach {address}: {exc or type(exc).__name__}")
