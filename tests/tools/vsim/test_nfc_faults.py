"""Every case of the fault matrix, met by the client of these tests."""

import contextlib
import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.vsim.clients import MIB, connected, inventory
from tests.tools.vsim.nfc_client import Client, base_path, ticket
from tests.tools.vsim.nfc_codes import NfcError
from tests.tools.vsim.nfc_matrix import EVENTS, MATRIX, Case
from tools.vsim import DiskEntry, HostEntry, MachineEntry, Simulator
from tools.vsim.rules import NfcRule, RuleError

SIZE = 2 * MIB
HOST = HostEntry("127.0.0.1")
ONE = MachineEntry("web1", disks=(DiskEntry(size=SIZE),))
SHORT = 0.05
"""Timeout in seconds of a client that meets silence."""


def prepared() -> Simulator:
    sim = Simulator(inventory(ONE, hosts=(HOST,)))
    sim.do.write("web1", 2000, 0, bytes(range(256)) * 2048)
    sim.do.write("web1", 2000, MIB + 4096, b"frozen" * 10_000)
    sim.do.snapshot("web1", "frozen")
    sim.do.write("web1", 2000, 0, b"later" * 100_000)
    return sim


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Simulator, Any]]:
    with prepared() as sim, connected(sim) as service:
        yield sim, service


@pytest.fixture(scope="module")
def truth(shared: tuple[Simulator, Any]) -> bytes:
    return Path(shared[0].do.truth("frozen", 2000)["path"]).read_bytes()


def pinned(client: Client, fields: dict[str, str]) -> None:
    """Compare the last certificate with the ticket and with the first one."""
    shown = client.certificates[-1]
    if "sslCertificate" in fields:
        is_right = shown == ssl.PEM_cert_to_DER_cert(fields["sslCertificate"])
    else:
        digest = hashlib.sha1(shown, usedforsecurity=False).hexdigest().upper()
        is_right = fields.get("sslThumbprint", "").replace(":", "") == digest
    if not is_right or shown != client.certificates[0]:
        raise NfcError("another certificate")


def captured(sim: Simulator, service: Any, case: Case) -> bytes:
    """Read the disk once, with all checks of a careful client."""
    granted = ticket(sim, service, key=2000)
    client = Client(sim)
    client.stream.settimeout(SHORT if case.waits else 5.0)
    client.timeout = client.stream.gettimeout()
    try:
        client.login(granted.token, granted.service, case.mode)
        pinned(client, granted.fields)
        if client.digest:
            digest = hashlib.sha256(client.certificates[0]).hexdigest().upper()
            if client.digest.replace(":", "") != f"200 {digest}":
                raise NfcError("another digest")
        if client.shake() < 3:
            raise NfcError("version")
        client.begin(65536)
        if client.open(base_path(sim)) != SIZE or client.sector not in (0, 512):
            raise NfcError("another geometry")
        client.bitmap(65536, 0, SIZE // 65536)
        client.value("uuid")
        data = b"".join(client.read(at, MIB, case.code or 0) for at in range(0, SIZE, MIB))
        client.end()
    finally:
        client.close()
    if not sim.do.vms()[0]["snapshots"]:
        raise NfcError("the snapshot is gone")
    return data


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_a_case_of_the_matrix(shared: tuple[Simulator, Any], truth: bytes, case: Case) -> None:
    sim, service = shared
    case.apply(sim)
    try:
        if case.outcome == "right":
            assert captured(sim, service, case) == truth
        elif case.outcome == "refused":
            with pytest.raises((NfcError, OSError)):
                captured(sim, service, case)
        else:
            with contextlib.suppress(NfcError, OSError):
                assert captured(sim, service, case) == truth
    finally:
        sim.do.reset_knobs()


NO_FAULT = Case("none", "right")


def test_connections_after_the_matrix_are_sound(
    shared: tuple[Simulator, Any], truth: bytes
) -> None:
    sim, service = shared

    assert captured(sim, service, NO_FAULT) == truth
    assert sim.do.nfc_counts()["open_disks"] == 0


@pytest.mark.parametrize("case", EVENTS, ids=lambda case: case.name)
def test_an_event_during_the_reads(case: Case) -> None:
    with prepared() as sim, connected(sim) as service:
        case.apply(sim)
        with pytest.raises((NfcError, OSError)):
            captured(sim, service, case)


def test_merged_bytes_are_other_bytes() -> None:
    with prepared() as sim, connected(sim) as service:
        frozen = captured(sim, service, NO_FAULT)
        sim.do.set_knobs("nfc", removed="merged")
        granted = ticket(sim, service)
        client = Client(sim)
        try:
            client.login(granted.token, granted.service)
            client.shake()
            client.begin()
            client.open(base_path(sim))
            assert client.read(0, MIB) == frozen[:MIB]
            sim.do.remove_snapshot("frozen")

            assert client.read(0, MIB)[:5] == b"later"
        finally:
            client.close()


def test_a_rule_acts_once_and_names_a_disk(shared: tuple[Simulator, Any], truth: bytes) -> None:
    sim, service = shared
    vm = sim.do.vms()[0]["id"]
    sim.do.on_nfc("read", "magic", export=f"{vm}/2001")
    assert captured(sim, service, NO_FAULT) == truth
    sim.do.on_nfc("read", "magic", export=f"{vm}/2000", at=2)
    with pytest.raises(NfcError, match="magic"):
        captured(sim, service, NO_FAULT)

    assert captured(sim, service, NO_FAULT) == truth
    sim.do.reset_knobs()


def test_connections_can_end_with_the_session_of_their_ticket() -> None:
    with prepared() as sim, connected(sim) as service:
        sim.do.set_knobs("nfc", bound=True)
        granted = ticket(sim, service)
        client = Client(sim)
        try:
            client.login(granted.token, granted.service)
            client.shake()
            client.begin()
            client.open(base_path(sim))
            sim.do.end_sessions()
            with pytest.raises((NfcError, OSError)):
                client.read(0, MIB)
        finally:
            client.close()
        service.RetrieveContent()


@pytest.mark.parametrize(
    "fields",
    [
        {"point": "nowhere", "action": "close"},
        {"point": "read", "action": "nothing"},
        {"point": "read", "action": "operation"},
        {"point": "read", "action": "close", "at": 0},
    ],
)
def test_invalid_rules_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RuleError):
        NfcRule(**fields)


@pytest.mark.parametrize("action", ["eio", "short"])
def test_rules_for_reads_apply(shared: tuple[Simulator, Any], action: str) -> None:
    sim, service = shared
    sim.do.on_read(action=action, export="*/2000", start=MIB, end=MIB + 512)
    with pytest.raises(NfcError, match="status 1" if action == "eio" else "end of the connection"):
        captured(sim, service, NO_FAULT)
    sim.do.reset_knobs()
