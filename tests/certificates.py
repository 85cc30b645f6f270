"""Certificates for tests of NBD over TLS, in the file names of QEMU and libnbd."""

import subprocess
from pathlib import Path


def certificate(folder: Path, name: str, template: str, *options: str) -> None:
    """Make NAME-key.pem and NAME-cert.pem in *folder* with certtool."""
    key, info, target = (
        folder / f"{name}-key.pem",
        folder / f"{name}.info",
        folder / f"{name}-cert.pem",
    )
    info.write_text(template)
    commands = [
        ["--generate-privkey", "--key-type=ecdsa", f"--outfile={key}"],
        [*options, f"--load-privkey={key}", f"--template={info}", f"--outfile={target}"],
    ]
    for command in commands:
        subprocess.run(["certtool", *command], check=True, capture_output=True)


def make_authority(folder: Path) -> Path:
    """Create a certificate folder for QEMU and libnbd: an authority and a server `localhost`."""
    folder.mkdir()
    certificate(folder, "ca", "cn = tests\nca\ncert_signing_key\n", "--generate-self-signed")
    certificate(
        folder,
        "server",
        "cn = localhost\ndns_name = localhost\ntls_www_server\nsigning_key\n",
        "--generate-certificate",
        f"--load-ca-certificate={folder / 'ca-cert.pem'}",
        f"--load-ca-privkey={folder / 'ca-key.pem'}",
    )
    return folder


def add_client(folder: Path, *, authority: Path) -> None:
    """Make a certificate for a client in *folder*, signed by *authority*."""
    certificate(
        folder,
        "client",
        "cn = client\ntls_www_client\nsigning_key\n",
        "--generate-certificate",
        f"--load-ca-certificate={authority / 'ca-cert.pem'}",
        f"--load-ca-privkey={authority / 'ca-key.pem'}",
    )
