"""Seven attacks on TLS: each is refused before the password is sent."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbtfs.errors import CbtfsError, SourceUnavailable, UsageError
from cbtfs.source.secret import Secret
from cbtfs.source.vsphere.connect.address import Address, parse_address
from cbtfs.source.vsphere.connect.session import Credentials, Session
from cbtfs.source.vsphere.connect.tls import fetch_certificate, parse_thumbprint, pinned, verifying
from tests.scenarios.vsphere.site import QUICK, one_vm
from tools.vsim import Simulator
from tools.vsim.soap.certificate import Certificate, make_certificate


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A CA that signs the certificates *signed* and *other*."""
    return make_certificate(tmp_path_factory.mktemp("authority"), stem="authority")


@pytest.fixture(scope="module")
def signed(authority: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("signed"), issuer=authority)


def pin_of(certificate: Certificate) -> str:
    return parse_thumbprint(certificate.thumbprint)


def logs_in(sim: Simulator, context: ssl.SSLContext) -> None:
    credentials = Credentials(sim.user.name, Secret(sim.user.password))
    with Session(address_of(sim), context, credentials, QUICK):
        pass


def address_of(sim: Simulator) -> Address:
    return Address(sim.host, sim.port)


@contextmanager
def refused(sim: Simulator, words: str) -> Iterator[None]:
    with pytest.raises(SourceUnavailable, match=words):
        yield
    assert "Login" not in sim.do.calls()


def test_a_certificate_of_a_trusted_ca_is_accepted(
    authority: Certificate, signed: Certificate
) -> None:
    with Simulator(one_vm(), certificate=signed) as sim:
        logs_in(sim, verifying(authority.certificate))

        assert "Login" in sim.do.calls()


@pytest.mark.parametrize("with_colons", [True, False])
def test_the_pinned_certificate_is_accepted(signed: Certificate, with_colons: bool) -> None:
    text = signed.thumbprint if with_colons else signed.thumbprint.replace(":", "").lower()
    with Simulator(one_vm(), certificate=signed) as sim:
        logs_in(sim, pinned(address_of(sim), parse_thumbprint(text), 20))

        assert "Login" in sim.do.calls()


def test_1_self_signed(certificate: Certificate) -> None:
    with (
        Simulator(one_vm(), certificate=certificate) as sim,
        refused(sim, "not trusted.*self.signed.*--thumbprint"),
    ):
        logs_in(sim, verifying())


def test_2_another_host(authority: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, names="DNS:other.example", issuer=authority)
    with Simulator(one_vm(), certificate=other) as sim, refused(sim, "not trusted"):
        logs_in(sim, verifying(authority.certificate))


@pytest.mark.parametrize("is_pinned", [False, True])
def test_3_expired(authority: Certificate, tmp_path: Path, is_pinned: bool) -> None:
    old = make_certificate(tmp_path, issuer=authority, expired=True)
    with Simulator(one_vm(), certificate=old) as sim, refused(sim, "expired"):
        pin = pin_of(old)
        tls = pinned(address_of(sim), pin, 20) if is_pinned else verifying(authority.certificate)
        logs_in(sim, tls)


def test_4_a_changed_certificate(certificate: Certificate, signed: Certificate) -> None:
    with Simulator(one_vm(), certificate=signed) as sim, refused(sim, "another certificate than"):
        logs_in(sim, pinned(address_of(sim), pin_of(certificate), 20))


def test_4_a_certificate_that_changes_after_the_first_look(
    certificate: Certificate, signed: Certificate
) -> None:
    with Simulator(one_vm(), certificate=certificate) as first:
        context = pinned(address_of(first), pin_of(certificate), 20)
    with Simulator(one_vm(), certificate=signed) as second, refused(second, "not trusted"):
        logs_in(second, context)


def test_5_a_pin_of_another_certificate_of_the_same_ca(
    authority: Certificate, signed: Certificate, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, issuer=authority)
    with Simulator(one_vm(), certificate=signed) as sim, refused(sim, "another certificate than"):
        logs_in(sim, pinned(address_of(sim), pin_of(other), 20))


def test_5_a_pinned_ca_does_not_make_its_certificates_trusted(
    authority: Certificate, signed: Certificate
) -> None:
    with Simulator(one_vm(), certificate=authority) as first:
        context = pinned(address_of(first), pin_of(authority), 20)
    with Simulator(one_vm(), certificate=signed) as second, refused(second, "not the pinned one"):
        logs_in(second, context)


def test_6_plain_http(certificate: Certificate) -> None:
    with Simulator(one_vm(), tls=False) as sim:
        with refused(sim, "TLS with|cannot reach"):
            logs_in(sim, verifying(certificate.certificate))
        with refused(sim, "TLS with|cannot reach"):
            logs_in(sim, pinned(address_of(sim), pin_of(certificate), 20))


def test_7_a_downgrade(certificate: Certificate) -> None:
    old = certificate.server_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with Simulator(one_vm(), certificate=certificate, tls=old) as sim:
        with refused(sim, "TLS with|cannot reach"):
            logs_in(sim, verifying(certificate.certificate))
        with refused(sim, "TLS with|cannot reach"):
            logs_in(sim, pinned(address_of(sim), pin_of(certificate), 20))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("vc1", "vc1", 443),
        ("vc1:8443", "vc1", 8443),
        ("https://vc1/sdk", "vc1", 443),
        ("[::1]:8443", "::1", 8443),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize("text", ["http://vc1", "vc1:port", "", "vc1/other", "user@vc1", "ftp://x"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="--server"):
        parse_address(text)


@pytest.mark.parametrize("text", ["", "AA:BB", "g" * 64, "a" * 40])
def test_no_thumbprints(text: str) -> None:
    with pytest.raises(UsageError, match="SHA-256"):
        parse_thumbprint(text)


def test_an_unreachable_server() -> None:
    with pytest.raises(CbtfsError, match="cannot reach"):
        fetch_certificate(Address("127.0.0.1", 1), 5)
