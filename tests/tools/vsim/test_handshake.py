"""Connections: version negotiation, login, TLS."""

import hashlib
import http.client
import ssl
from typing import Any

import pytest
from pyVim.connect import Connect, Disconnect, SmartConnect
from pyVmomi import vim

from tests.tools.vsim.clients import (
    BLOCK,
    DISK,
    changed,
    connected,
    enable_cbt,
    inventory,
    machine,
    remove,
    take_snapshot,
)
from tools.vsim import ServerEntry, Simulator
from tools.vsim.inventory import InventoryError


@pytest.mark.parametrize(
    ("api", "chosen"),
    [("6.7", "6.7"), ("7.0.3.0", "7.0.3.0"), ("8.0.3.0", "8.0.3.0"), ("9.1.1.0", "9.1.1.0")],
)
def test_a_client_negotiates_the_announced_version(api: str, chosen: str) -> None:
    with Simulator(inventory(server=ServerEntry(api=api))) as sim, connected(sim) as service:
        version = service._stub.versionId

        assert version == f'"urn:vim25/{chosen}"'
        assert service.content.about.apiVersion == api


@pytest.mark.parametrize("api", ["6.7", "7.0.3.0", "8.0.3.0"])
def test_a_backup_works_in_every_version(api: str) -> None:
    with Simulator(inventory(server=ServerEntry(api=api))) as sim, connected(sim) as service:
        vm = machine(service)
        enable_cbt(vm)
        sim.do.write("web1", DISK, BLOCK, b"x")
        snapshot = take_snapshot(vm)
        extents = changed(vm, snapshot, "*")
        with pytest.raises(vim.fault.FileFault):
            changed(vm, snapshot, "00/1")
        remove(snapshot)

        assert extents == [(BLOCK, BLOCK)]
        assert vm.snapshot is None


def test_an_unknown_version_is_refused_at_the_start() -> None:
    with pytest.raises(InventoryError, match=r"1\.2\.3"):
        Simulator(inventory(server=ServerEntry(api="1.2.3")))


def test_an_esxi_host_identifies_itself() -> None:
    host = inventory(server=ServerEntry(kind="esxi"))
    with Simulator(host) as sim, connected(sim) as service:
        assert service.content.about.apiType == "HostAgent"
        assert machine(service)._moId == "1"


def test_a_wrong_password_is_an_invalid_login(sim: Simulator, service: Any) -> None:
    sessions = service.content.sessionManager
    sessions.Logout()
    with pytest.raises(vim.fault.InvalidLogin) as refused:
        sessions.Login(sim.user.name, "wrong")

    assert refused.value.msg == ("Cannot complete login due to an incorrect user name or password.")


def test_a_client_that_does_not_trust_the_certificate_gets_no_answer(sim: Simulator) -> None:
    with pytest.raises(vim.fault.HostConnectFault, match="CERTIFICATE_VERIFY_FAILED"):
        Connect(
            host=sim.host,
            port=sim.port,
            user=sim.user.name,
            pwd=sim.user.password,
            version="vim.version.version12",
            sslContext=ssl.create_default_context(),
        )


def test_plain_http_is_not_answered_on_the_tls_port(sim: Simulator) -> None:
    connection = http.client.HTTPConnection(sim.host, sim.port, timeout=10)
    connection.request("GET", "/sdk/vimServiceVersions.xml")

    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()
    connection.close()


def test_the_thumbprint_is_that_of_the_certificate_on_the_wire(sim: Simulator) -> None:
    pem = ssl.get_server_certificate((sim.host, sim.port))
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()

    assert sim.certificate.thumbprint.replace(":", "") == digest


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("status", "is down or is not a VIM server"),
        ("garbage", "no element found"),
        ("lost-request", "closed connection without response"),
    ],
)
def test_a_client_reports_a_server_that_is_starting(sim: Simulator, action: Any, text: str) -> None:
    sim.do.on_call("vimServiceVersions", action=action)

    with pytest.raises(Exception, match=text):
        SmartConnect(
            host=sim.host,
            port=sim.port,
            user=sim.user.name,
            pwd=sim.user.password,
            sslContext=sim.certificate.client_context(),
        )
    with connected(sim) as service:
        assert service.CurrentTime() is not None


def test_the_simulator_can_serve_plain_http() -> None:
    with Simulator(inventory(), tls=False) as sim:
        service = SmartConnect(
            protocol="http",
            host=sim.host,
            port=sim.port,
            user=sim.user.name,
            pwd=sim.user.password,
        )

        assert machine(service).name == "web1"
        Disconnect(service)
        service._stub.DropConnections()


def test_garbage_is_a_soap_fault_and_the_server_continues(sim: Simulator, service: Any) -> None:
    connection = http.client.HTTPSConnection(
        sim.host, sim.port, context=sim.certificate.client_context()
    )
    connection.request("POST", "/sdk", b"<not-soap")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    assert answer.status == 500
    assert b"InvalidRequestFault" in body
    assert service.CurrentTime().tzinfo is not None
