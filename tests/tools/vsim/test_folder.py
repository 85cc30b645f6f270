"""/folder: the files of a datastore over HTTPS."""

import base64
import http.client
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.tools.vsim.clients import (
    DISK,
    MIB,
    connected,
    enable_cbt,
    inventory,
    remove,
    take_snapshot,
)
from tools.vsim import ReadRule, ServerEntry, Simulator, UserEntry


class Browser:
    """Client of /folder with the cookie of a SOAP session."""

    def __init__(self, sim: Simulator, service: Any) -> None:
        self._sim = sim
        self._cookie = service._stub.cookie if service else ""

    def get(
        self, path: str, *, store: str = "datastore1", dc: str = "DC0", **headers: str
    ) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPSConnection(
            self._sim.host, self._sim.port, context=self._sim.certificate.client_context()
        )
        url = f"/folder/{quote(path)}?{urlencode({'dcPath': dc, 'dsName': store})}"
        try:
            connection.request("GET", url, headers={"Cookie": self._cookie, **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


@pytest.fixture
def browser(sim: Simulator, service: Any) -> Browser:
    return Browser(sim, service)


def test_the_base_extent_is_the_snapshot(sim: Simulator, vm: Any, browser: Browser) -> None:
    sim.do.write("web1", DISK, MIB, b"frozen")
    take_snapshot(vm)
    sim.do.write("web1", DISK, MIB, b"moving")
    status, headers, body = browser.get("web1/web1-flat.vmdk")

    assert status == 200
    assert headers["Accept-Ranges"] == "bytes"
    assert len(body) == 4 * MIB
    assert body[MIB : MIB + 6] == b"frozen"


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (f"bytes={MIB}-{MIB + 5}", (MIB, MIB + 6)),
        (f"bytes={4 * MIB - 3}-", (4 * MIB - 3, 4 * MIB)),
        (f"bytes={4 * MIB - 3}-{5 * MIB}", (4 * MIB - 3, 4 * MIB)),
        ("bytes=-5", (4 * MIB - 5, 4 * MIB)),
    ],
)
def test_a_range_returns_exactly_its_bytes(
    sim: Simulator, vm: Any, browser: Browser, requested: str, expected: tuple[int, int]
) -> None:
    start, end = expected
    sim.do.write("web1", DISK, 0, bytes(range(256)) * (4 * MIB // 256))
    take_snapshot(vm)
    status, headers, body = browser.get("web1/web1-flat.vmdk", Range=requested)

    assert status == 206
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{4 * MIB}"
    assert body == (bytes(range(256)) * (4 * MIB // 256))[start:end]


def test_a_range_past_the_end_is_not_satisfiable(vm: Any, browser: Browser) -> None:
    take_snapshot(vm)
    status, headers, _ = browser.get("web1/web1-flat.vmdk", Range=f"bytes={4 * MIB}-")

    assert status == 416
    assert headers["Content-Range"] == f"bytes */{4 * MIB}"


def test_a_server_can_ignore_ranges(sim: Simulator, vm: Any, browser: Browser) -> None:
    sim.knobs.change("data", ranges=False)
    take_snapshot(vm)
    status, _, body = browser.get("web1/web1-flat.vmdk", Range="bytes=0-0")

    assert (status, len(body)) == (200, 4 * MIB)


@pytest.mark.parametrize("status", [403, 500])
def test_the_disk_of_a_running_machine_is_locked(
    sim: Simulator, vm: Any, browser: Browser, status: int
) -> None:
    sim.knobs.change("data", locked_status=status)
    before = browser.get("web1/web1-flat.vmdk")[0]
    snapshot = take_snapshot(vm)
    during = browser.get("web1/web1-flat.vmdk")[0]
    remove(snapshot)
    sim.do.power("web1", "off")

    assert (before, during) == (status, 200)
    assert browser.get("web1/web1-flat.vmdk")[0] == 200


def test_with_two_snapshots_the_base_is_the_older_one(
    sim: Simulator, vm: Any, browser: Browser
) -> None:
    for text in (b"one", b"two"):
        sim.do.write("web1", DISK, 0, text)
        take_snapshot(vm, text.decode())

    assert browser.get("web1/web1-flat.vmdk", Range="bytes=0-2")[2] == b"one"
    assert browser.get("web1/web1-000001-sesparse.vmdk")[0] == 501


def test_descriptors_name_extents_parents_and_tracking(vm: Any, browser: Browser) -> None:
    enable_cbt(vm)
    take_snapshot(vm)
    base = browser.get("web1/web1.vmdk")[2].decode()
    delta = browser.get("web1/web1-000001.vmdk")[2].decode()

    assert f'RW {4 * MIB // 512} VMFS "web1-flat.vmdk"' in base
    assert 'changeTrackPath="web1-ctk.vmdk"' in base
    assert 'parentFileNameHint="web1.vmdk"' in delta
    assert 'changeTrackPath="web1-000001-ctk.vmdk"' in delta


def test_the_configuration_file_can_be_read(vm: Any, browser: Browser) -> None:
    text = browser.get("web1/web1.vmx")[2].decode()

    assert 'displayName = "web1"' in text
    assert 'scsi0:0.fileName = "web1.vmdk"' in text
    assert browser.get("web1/web1.nvram")[0] == 200


def test_directories_are_listed(vm: Any, browser: Browser) -> None:
    top = browser.get("")[2].decode()
    below = browser.get("web1/")[2].decode()

    assert ">web1</a>" in top
    for name in ("web1.vmx", "web1.vmdk", "web1-flat.vmdk", "web1_1.vmdk", "web1.nvram"):
        assert f">{name}</a>" in below
    assert browser.get("nobody/")[0] == 404


def test_the_machine_lists_the_same_files(vm: Any, browser: Browser) -> None:
    take_snapshot(vm)
    files = [file.name.removeprefix("[datastore1] web1/") for file in vm.layoutEx.file]
    listing = browser.get("web1/")[2].decode()

    assert "web1-000001.vmdk" in files
    assert all(f">{name}</a>" in listing for name in files)


@pytest.mark.parametrize(
    ("store", "dc"), [("nowhere", "DC0"), ("datastore1", "nowhere"), ("datastore1", "")]
)
def test_an_unknown_datastore_or_datacenter_is_not_found(
    browser: Browser, store: str, dc: str
) -> None:
    assert browser.get("web1/web1.vmx", store=store, dc=dc)[0] == 404


@pytest.mark.parametrize("dc", ["ha-datacenter", "DC0"])
def test_a_host_has_one_datacenter(dc: str) -> None:
    host = inventory(server=ServerEntry(kind="esxi"))
    with Simulator(host) as sim, connected(sim) as service:
        assert Browser(sim, service).get("web1/web1.vmx", dc=dc)[0] == 200


def test_without_a_session_nothing_is_served(sim: Simulator) -> None:
    assert Browser(sim, None).get("web1/web1.vmx")[0] == 401


@pytest.mark.parametrize(("password", "status"), [("vsim", 200), ("wrong", 401)])
def test_basic_authentication_checks_the_password(
    sim: Simulator, password: str, status: int
) -> None:
    credentials = base64.b64encode(f"{sim.user.name}:{password}".encode()).decode()
    response = Browser(sim, None).get("web1/web1.vmx", Authorization=f"Basic {credentials}")

    assert response[0] == status


def test_browsing_requires_its_privilege() -> None:
    poor = UserEntry("poor", "pw", denied=("Datastore.Browse",))
    with Simulator(inventory(users=(poor,))) as sim, connected(sim) as service:
        assert Browser(sim, service).get("web1/web1.vmx")[0] == 403


def test_a_range_can_be_unreadable(sim: Simulator, vm: Any, browser: Browser) -> None:
    take_snapshot(vm)
    sim.knobs.rules.add(ReadRule("eio", start=MIB, end=MIB + 1))

    assert browser.get("web1/web1-flat.vmdk", Range=f"bytes=0-{MIB}")[0] == 500
    assert browser.get("web1/web1-flat.vmdk", Range=f"bytes=0-{MIB - 1}")[0] == 206


def test_a_session_can_end_between_two_reads(sim: Simulator, vm: Any, browser: Browser) -> None:
    take_snapshot(vm)
    sim.do.on_read(action="operation", operation="end_sessions", times=1)
    statuses = [browser.get("web1/web1-flat.vmdk", Range="bytes=0-1")[0] for _ in range(2)]

    assert statuses == [206, 401]


def test_the_connection_can_close_in_the_middle_of_a_file(
    sim: Simulator, vm: Any, browser: Browser
) -> None:
    take_snapshot(vm)
    sim.knobs.rules.add(ReadRule("close", export="*-flat.vmdk"))

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        browser.get("web1/web1-flat.vmdk")
