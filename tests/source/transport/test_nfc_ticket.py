"""Tickets are read from SOAP answers; incomplete ones and faults are errors of one line."""

import pytest

from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.transport.nfc.failures import HostUnavailable
from cbtfs.source.transport.nfc.ticket import Ticket, fault_of, parse_ticket, result_of
from tools.fuzz.nfc import ticket_seeds

TICKET, FAULT = (seed.decode() for seed in ticket_seeds())


def parsed(answer: str) -> Ticket:
    return parse_ticket(result_of(answer.encode(), "NfcGetVmFiles"), "vc1")


def test_a_ticket_names_host_certificate_and_service() -> None:
    ticket = parsed(TICKET)

    assert (ticket.host, ticket.port, ticket.service) == ("esx1", 902, "vpxa-nfc")
    assert (ticket.digest, ticket.certificate) == (b"\xab" * 20, None)
    assert ticket.token.reveal() == "52f5-ab"
    assert "52f5" not in repr(ticket)


def test_a_lone_host_is_the_server_itself() -> None:
    ticket = parsed(TICKET.replace("<host>esx1</host><port>902</port>", ""))

    assert (ticket.host, ticket.port) == ("vc1", 902)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("<sessionId>52f5-ab</sessionId>", "", "session ID"),
        ("52f5-ab", "a b", "session ID"),
        ("52f5-ab", "a&#13;&#10;PROXY", "session ID"),
        ("vpxa-nfc", "nfc ssl", "service"),
        ("902", "70000", "port"),
        ("902", "-1", "port"),
        ("AB:AB", "AB:XY", "thumbprint"),
        ("AB:AB", "AB", "thumbprint"),
        ("sslThumbprint", "other", "does not identify the host"),
        ("sslThumbprint", "sslCertificate", "invalid certificate"),
        ("returnval", "value", "has no result"),
        ("</e:Body>", "", "is not XML"),
    ],
)
def test_an_invalid_ticket_is_one_error(before: str, after: str, words: str) -> None:
    with pytest.raises(SourceUnavailable, match=words):
        parsed(TICKET.replace(before, after))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("NoPermission", AccessDenied, "lacks the privilege VirtualMachine.Provisioning.GetVmF"),
        ("InvalidState", HostUnavailable, "in maintenance"),
        ("HostNotConnected", HostUnavailable, "disconnected"),
        ("ManagedObjectNotFound", SourceUnavailable, "does not give tickets"),
        ("Other", SourceUnavailable, "Denied"),
    ],
)
def test_a_fault_is_an_error_of_its_kind(name: str, kind: type[Exception], words: str) -> None:
    fault = fault_of(500, FAULT.replace("NoPermission", name).encode())
    assert fault is not None
    error = fault.error("NfcGetVmFiles")

    assert type(error) is kind
    assert words in str(error)
    assert fault_of(200, FAULT.encode()) is None
    assert fault_of(500, b"<html>") is None
