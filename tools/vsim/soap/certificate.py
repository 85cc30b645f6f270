"""A self-made server certificate, by the openssl command."""

import hashlib
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the certificate, AA:BB:…"""
        return self._digest("sha256")

    @property
    def thumbprint_sha1(self) -> str:
        """SHA-1, as VMware's disk library wants it."""
        return self._digest("sha1")

    def _digest(self, algorithm: str) -> str:
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        digest = hashlib.new(algorithm, der, usedforsecurity=False).hexdigest().upper()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """A context that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(
    directory: Path, names: str = "IP:127.0.0.1,IP:::1,DNS:localhost", *options: str
) -> Certificate:
    """A new certificate for *names*; *options* go to `openssl req`, such as -days."""
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=vsim"]
    command += ["-addext", f"subjectAltName={names}", *(options or ("-days", "30"))]
    command += ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return made
