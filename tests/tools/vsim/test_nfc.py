"""The NFC server: tickets, modes, handshakes, exact bytes, allocation, refusals."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.vsim.clients import MIB, connected, inventory
from tests.tools.vsim.nfc_client import (
    Client,
    ask,
    base_path,
    nfc_service,
    session,
    ticket,
)
from tests.tools.vsim.nfc_codes import NfcError, decoded
from tools.vsim import (
    DiskEntry,
    HostEntry,
    Inventory,
    MachineEntry,
    ServerEntry,
    Simulator,
    UserEntry,
)
from tools.vsim.nfc.fastlz import compress

CHUNK = 65536
DATA = random.Random(7).randbytes(300_000)
TEXT = b"words of a text, again and again. " * 9000
MACHINES = (
    MachineEntry("web1", disks=(DiskEntry(size=4 * MIB), DiskEntry(size=MIB))),
    MachineEntry("web2", disks=(DiskEntry(size=MIB),)),
)
PLAIN, ZLIB, FASTLZ, SKIPZ = range(4)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Simulator, Any]]:
    with Simulator(inventory(*MACHINES)) as sim, connected(sim) as service:
        sim.do.write("web1", 2000, 4096, DATA)
        sim.do.write("web1", 2000, 2 * MIB + 5, TEXT)
        sim.do.snapshot("web1", "frozen")
        sim.do.write("web1", 2000, 0, b"later" * 1000)
        yield sim, service


@pytest.fixture
def sim(shared: tuple[Simulator, Any]) -> Iterator[Simulator]:
    yield shared[0]
    shared[0].do.reset_knobs()


@pytest.fixture
def service(shared: tuple[Simulator, Any]) -> Any:
    return shared[1]


@pytest.fixture(scope="module")
def truth(shared: tuple[Simulator, Any]) -> bytes:
    with open(shared[0].do.truth("frozen", 2000)["path"], "rb") as file:
        return file.read()


@pytest.mark.parametrize("mode", ["ssl", "clear"])
@pytest.mark.parametrize("code", [PLAIN, ZLIB, FASTLZ, SKIPZ])
@pytest.mark.parametrize("size", [0, 2 * MIB])
def test_reads_return_the_bytes_of_the_snapshot(
    sim: Simulator, service: Any, truth: bytes, mode: str, code: int, size: int
) -> None:
    with session(sim, service, mode=mode, size=size) as client:
        read = [client.read(at, MIB, code) for at in range(0, 4 * MIB, MIB)]
        tail = client.read(4 * MIB - 512, 512, code)
        client.end(wide=mode == "ssl")

    assert b"".join(read) == truth
    assert tail == truth[-512:]


def test_reads_in_flight_interleave(sim: Simulator, service: Any, truth: bytes) -> None:
    with session(sim, service, size=CHUNK) as client:
        asked = {client.send_read(at, MIB, SKIPZ): (at, MIB) for at in range(0, 4 * MIB, MIB)}

        assert b"".join(client.gather(asked, SKIPZ)) == truth


@pytest.mark.parametrize("kind", ["vcenter", "esxi"])
def test_the_shapes_of_vcenter_and_esxi(kind: str) -> None:
    stock = Inventory(server=ServerEntry(kind=kind), machines=MACHINES[:1])
    with Simulator(stock) as sim, connected(sim) as service:
        sim.do.write("web1", 2000, 0, DATA)
        sim.do.snapshot("web1", "frozen")
        granted = ticket(sim, service, key=2000)
        with session(sim, service, key=2000) as client:
            read = client.read(0, MIB)

        assert read[: len(DATA)] == DATA
        assert nfc_service(sim, service) == (
            "nfcService" if kind == "vcenter" else "ha-nfc-service"
        )
        assert granted.service == ("vpxa-nfc" if kind == "vcenter" else "nfc")
        assert granted.fields.get("host") == (sim.host if kind == "vcenter" else None)
        assert granted.fields["port"] == str(sim.nfc_port)
        assert granted.fields["sslThumbprint"] == sim.certificate.thumbprint_sha1


def test_both_namespaces_and_the_version_of_the_library(sim: Simulator, service: Any) -> None:
    host = '<hostForAccess type="HostSystem">host-1</hostForAccess>'
    for space in ("urn:vim25", "urn:nfc"):
        answer = ask(sim, service, "NfcGetServerNfcLibVersion", host, space)
        assert answer == {"returnval": "11"}
        files = f'<vm type="VirtualMachine">{sim.do.vms()[0]["id"]}</vm>'
        assert "sessionId" in ask(sim, service, "NfcGetVmFiles", files, space)
    with pytest.raises(NfcError, match="hostForAccess"):
        ask(sim, service, "NfcGetServerNfcLibVersion", "")
    with pytest.raises(NfcError, match="ManagedObjectNotFound"):
        ask(sim, service, "NfcGetVmFiles", '<vm type="VirtualMachine">vm-999</vm>')


def test_a_ticket_is_used_once(sim: Simulator, service: Any) -> None:
    granted = ticket(sim, service)
    first, second = Client(sim), Client(sim)
    try:
        assert first.login(granted.token, granted.service) == "200 Connect ha-nfcssl"
        with pytest.raises(NfcError, match="530 Login incorrect"):
            second.login(granted.token, granted.service)
    finally:
        first.close()
        second.close()


def test_the_digest_and_both_certificates_agree(sim: Simulator, service: Any) -> None:
    with session(sim, service) as client:
        assert client.digest == f"200 {sim.certificate.thumbprint}"
        assert len(set(client.certificates)) == 1


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("sha256", [True, False])
def test_variants_of_the_handshake(sim: Simulator, service: Any, early: bool, sha256: bool) -> None:
    sim.do.set_knobs("nfc", early_status=early, sha256=sha256, tls="1.3" if early else "1.2")
    granted = ticket(sim, service)
    client = Client(sim)
    try:
        client.login(granted.token, granted.service)
        assert client.shake(wait_early=early, apart=sha256) == 11
        client.begin()

        assert client.open(base_path(sim)) == 4 * MIB
        assert bool(client.digest) == sha256
    finally:
        client.close()


def test_disks_that_a_ticket_does_not_allow_are_refused(sim: Simulator, service: Any) -> None:
    other = str(sim.do.vms()[1]["disks"][0]["datastore_path"])
    running = str(sim.do.vms()[0]["disks"][0]["datastore_path"])
    with session(sim, service, key=2000) as client:
        for path, flags, text in (
            (other, 0x1E, "11: .*permission check failed"),
            (base_path(sim).replace(".vmdk", "_1.vmdk"), 0x1E, "11: .*permission"),
            (base_path(sim), 0x1A, "11: .*permission"),
            (running, 0x1E, "multiwriter"),
            ("[datastore1] web1/none.vmdk", 0x1E, "does not exist"),
        ):
            with pytest.raises(NfcError, match=text):
                client.open(path, flags)
            assert client.receive()[0] == 4

        assert len(client.read(0, MIB)) == MIB


def test_a_machine_that_is_off_is_open_to_its_top_link(sim: Simulator, service: Any) -> None:
    vm = str(sim.do.vms()[1]["id"])
    sim.do.write("web2", 2000, 0, DATA)
    sim.do.power("web2", "off")
    granted = ticket(sim, service, key=2000, vm=vm)
    client = Client(sim)
    try:
        client.login(granted.token, granted.service, "clear")
        client.shake()
        client.begin()
        client.open(str(sim.do.vms()[1]["disks"][0]["datastore_path"]))

        assert client.read(0, MIB)[: len(DATA)] == DATA
    finally:
        client.close()
        sim.do.power("web2", "on")


def test_allocated_chunks_and_the_disk_database(sim: Simulator, service: Any, truth: bytes) -> None:
    with session(sim, service) as client:
        bits = client.bitmap(CHUNK, 0, 4 * MIB // CHUNK)
        part = client.bitmap(CHUNK, 2 * MIB, 3)
        missing = client.value("iofilters")
        uuid = client.value("uuid")
        with pytest.raises(NfcError, match="invalid range"):
            client.bitmap(CHUNK, 512, 1)

    for number, is_allocated in enumerate(bits):
        assert is_allocated or not any(truth[number * CHUNK : (number + 1) * CHUNK])
    assert 0 < sum(bits) < len(bits)
    assert part == bits[32:35]
    assert missing == ""
    assert len(uuid) == 47


def test_buffers_sessions_and_the_budget_have_limits(sim: Simulator, service: Any) -> None:
    refused = pytest.raises(NfcError, match="5: Failed to allocate")
    with session(sim, service) as client, refused:
        client.begin(16 * MIB)
    with session(sim, service) as client:
        sim.do.set_knobs("nfc", budget=MIB)
        with pytest.raises(NfcError, match="5: Failed to allocate"):
            client.read(0, MIB)
        assert client.receive()[0] == 7
        assert len(client.read(0, MIB // 2)) == MIB // 2
        sim.do.set_knobs("nfc", max_sessions=1)
        with pytest.raises(NfcError, match="Too many"), session(sim, service):
            pass


@pytest.mark.parametrize(
    ("denied", "key", "writable"),
    [
        ("VirtualMachine.Provisioning.GetVmFiles", None, False),
        ("VirtualMachine.Provisioning.DiskRandomRead", None, False),
        ("VirtualMachine.Provisioning.GetVmFiles", 2000, False),
        ("VirtualMachine.Provisioning.DiskRandomRead", 2000, False),
        ("VirtualMachine.Provisioning.DiskRandomAccess", 2000, True),
    ],
)
def test_tickets_need_privileges(denied: str, key: int | None, writable: bool) -> None:
    user = UserEntry("backup", "vsim", denied=(denied,))
    refused = pytest.raises(NfcError, match=f"NoPermission.*{denied}")
    with Simulator(inventory(users=(user,))) as sim, connected(sim) as service, refused:
        ticket(sim, service, key=key, writable=writable)


def test_a_chain_of_snapshots_reads_each_link() -> None:
    with Simulator(inventory()) as sim, connected(sim) as service:
        paths, wanted = [], []
        for number in range(3):
            sim.do.write("web1", 2000, number * CHUNK, bytes([65 + number]) * CHUNK)
            paths.append(str(sim.do.vms()[0]["disks"][0]["datastore_path"]))
            sim.do.snapshot("web1", f"s{number}")
            with open(sim.do.truth(f"s{number}", 2000)["path"], "rb") as file:
                wanted.append(file.read())
        for path, expected in zip(paths, wanted, strict=True):
            with session(sim, service, path=path) as client:
                assert client.read(0, 4 * MIB) == expected
                assert client.bitmap(CHUNK, 0, 4)[-1] is False


def test_counts(sim: Simulator, service: Any) -> None:
    sim.do.nfc_counts(clear=True)
    with session(sim, service) as client:
        client.read(0, MIB)
        during = sim.do.nfc_counts()
        client.end()
        after = sim.do.nfc_counts(clear=True)

    assert during["open_disks"] == 1
    assert (after["opened"], after["closed"], after["open_disks"]) == (1, 1, 0)
    assert (after["reads"], after["read_bytes"], after["fragments"]) == (1, MIB, 16)
    assert (after["tickets_issued"], after["tickets_spent"]) == (1, 1)


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 90)), min_size=1),
    st.sampled_from([1, 2]),
)
def test_fastlz_blocks_decode_to_their_data(parts: list[tuple[bytes, int]], level: int) -> None:
    data = b"".join(piece * times for piece, times in parts)

    assert decoded(FASTLZ, compress(data, level), len(data)) == data


def test_fastlz_finds_far_matches() -> None:
    data = DATA[:20_000] * 3
    assert len(compress(data, 2)) < 22_000
    assert decoded(FASTLZ, compress(data, 2), len(data)) == data


def test_the_host_of_a_ticket(sim: Simulator, service: Any) -> None:
    host = HostEntry("127.0.0.1")
    with Simulator(inventory(hosts=(host,))) as other, connected(other) as login:
        other.do.snapshot("web1", "frozen")
        with session(other, login) as client:
            other.do.host("127.0.0.1", maintenance=True)
            with pytest.raises((NfcError, OSError)):
                client.read(0, MIB)
        with pytest.raises(NfcError, match="InvalidState"):
            ticket(other, login)
