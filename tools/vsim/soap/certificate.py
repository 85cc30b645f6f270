"""Server certificates, valid and invalid, from the openssl command."""

import hashlib
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAMES = "IP:127.0.0.1,IP:::1,DNS:localhost"
KEY = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
PAST_DATES = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
CA_SETTINGS = """
[ca]
default_ca = here
[here]
database = {0}/index
new_certs_dir = {0}
rand_serial = yes
policy = any
copy_extensions = copy
default_md = sha256
[any]
commonName = supplied
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def thumbprint(self) -> str:
        """SHA-256 thumbprint of the certificate: AA:BB:…"""
        return self._digest("sha256")

    @property
    def thumbprint_sha1(self) -> str:
        """SHA-1 thumbprint, which VMware's disk library requires."""
        return self._digest("sha1")

    def _digest(self, algorithm: str) -> str:
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        digest = hashlib.new(algorithm, der, usedforsecurity=False).hexdigest().upper()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))

    def server_context(self) -> ssl.SSLContext:
        """Return a context that serves with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts only this certificate and the ones it signed."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(
    directory: Path,
    *,
    names: str = NAMES,
    issuer: Certificate | None = None,
    expired: bool = False,
    stem: str = "cert",
) -> Certificate:
    """Create a certificate <stem>.pem and its key in *directory*.

    *names* are subject alternative names in openssl's format. Without an *issuer* the certificate
    is self-signed and can sign others.
    """
    certificate = Certificate(directory / f"{stem}.pem", directory / f"{stem}-key.pem")
    subject = ["-subj", f"/CN={stem}", "-addext", f"subjectAltName={names}"]
    key = [*KEY, "-keyout", str(certificate.key)]
    if expired:
        _make_expired(certificate, [*key, *subject], issuer)
        return certificate
    signer = ["-CA", str(issuer.certificate), "-CAkey", str(issuer.key)] if issuer else []
    output = ["-days", "30", "-out", str(certificate.certificate)]
    _openssl("req", "-x509", *key, *subject, *signer, *output)
    return certificate


def _make_expired(certificate: Certificate, request: list[str], issuer: Certificate | None) -> None:
    """Create an expired certificate. `openssl ca` accepts past dates; `openssl req` does not."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "index").touch()
        (work / "settings").write_text(CA_SETTINGS.format(work))
        _openssl("req", "-new", *request, "-out", str(work / "request"))
        signer = ["-selfsign", "-keyfile", str(certificate.key)]
        if issuer:
            signer = ["-cert", str(issuer.certificate), "-keyfile", str(issuer.key)]
        files = ["-in", str(work / "request"), "-out", str(certificate.certificate)]
        settings = ["-config", str(work / "settings"), "-batch", "-notext"]
        _openssl("ca", *settings, *PAST_DATES, *signer, *files)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
