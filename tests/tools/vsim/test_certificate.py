"""Certificates that a client must reject, and certificates that it must accept."""

import socket
import ssl
from pathlib import Path

import pytest

from tests.tools.vsim.clients import inventory
from tools.vsim import Simulator
from tools.vsim.soap.certificate import Certificate, make_certificate


def handshake(sim: Simulator, trusted: Certificate) -> str:
    """Connect with a client that trusts *trusted*; return the negotiated TLS version."""
    context = trusted.client_context()
    with (
        socket.create_connection((sim.host, sim.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=sim.host) as stream,
    ):
        return str(stream.version())


def test_a_certificate_is_trusted_through_its_authority(tmp_path: Path) -> None:
    authority = make_certificate(tmp_path, names="DNS:authority", stem="authority")
    server = make_certificate(tmp_path, issuer=authority)
    with Simulator(inventory(), certificate=server) as sim:
        assert handshake(sim, authority) == "TLSv1.3"


@pytest.mark.parametrize("self_signed", [True, False])
def test_an_expired_certificate_is_rejected(tmp_path: Path, self_signed: bool) -> None:
    authority = make_certificate(tmp_path, names="DNS:authority", stem="authority")
    server = make_certificate(tmp_path, issuer=None if self_signed else authority, expired=True)
    with (
        Simulator(inventory(), certificate=server) as sim,
        pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"),
    ):
        handshake(sim, server if self_signed else authority)


def test_a_certificate_for_another_host_is_rejected(tmp_path: Path) -> None:
    server = make_certificate(tmp_path, names="DNS:other.example")
    with (
        Simulator(inventory(), certificate=server) as sim,
        pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"),
    ):
        handshake(sim, server)


def test_another_certificate_has_another_thumbprint(tmp_path: Path) -> None:
    first, second = (make_certificate(tmp_path, stem=stem) for stem in ("a", "b"))

    assert first.thumbprint != second.thumbprint


def test_a_server_can_offer_only_an_old_protocol(tmp_path: Path) -> None:
    server = make_certificate(tmp_path)
    context = server.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Simulator(inventory(), certificate=server, tls=context) as sim:
        assert handshake(sim, server) == "TLSv1.2"
