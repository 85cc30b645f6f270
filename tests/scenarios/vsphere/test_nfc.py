"""The transport nfc: trust, secrets, life cycle, limits; through ingests of a simulated VM."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import Transport, TransportDisk
from cbtfs.source.transport.nfc import ticket as tickets
from cbtfs.source.transport.nfc.channel import Channel
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.transport import NfcTransport, opened_by_nfc
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import list_vms
from tests.scenarios.vsphere.command import arguments
from tests.scenarios.vsphere.site import FIRST, MIB, VM, Lab, by_nfc, new_lab, one_vm
from tools.vsim import DiskEntry, ServerEntry, Simulator, UserEntry
from tools.vsim.server.https import HttpsServer
from tools.vsim.soap.certificate import Certificate


def with_options(**options: Any) -> Callable[[Simulator, Session], Transport]:
    return lambda sim, session: NfcTransport(session.web(), NfcOptions(**options))


@pytest.fixture
def nfc(tracked: Lab) -> Lab:
    """A site with one point; later points come by NFC."""
    tracked.make_transport = by_nfc
    tracked.sim.do.nfc_counts(clear=True)
    return tracked


def counts(lab: Lab) -> dict[str, int]:
    numbers: dict[str, int] = lab.sim.do.nfc_counts()
    return numbers


def test_a_vm_with_another_snapshot_is_captured_over_tls(nfc: Lab) -> None:
    nfc.sim.do.snapshot(VM, "theirs")
    nfc.write(0, b"beneath two snapshots" * 1000)
    manifest = nfc.ingest().manifest

    assert manifest.metadata["transport"] == "nfc"
    assert {disk["transport_mode"] for disk in manifest.metadata["disks"]} <= {"nfcssl", None}
    nfc.assert_all_true()
    assert counts(nfc)["tag_differences"] == 0


def test_a_lone_esxi_host_is_read_too(tmp_path: Path, certificate: Certificate) -> None:
    inventory = replace(one_vm(cbt=True), server=ServerEntry(kind="esxi"))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_nfc)
        lab.write(0, b"on a lone host")
        lab.ingest()
        lab.assert_all_true()


# trust and secrets


@pytest.mark.parametrize(
    ("knobs", "options"),
    [
        ({"pin": "wrong"}, {}),
        ({"pin": "none"}, {}),
        ({"certificate": "first"}, {}),
        ({"sha256": False}, {"requires_sha256": True}),
    ],
    ids=str,
)
def test_no_ticket_is_presented_to_a_host_that_is_not_identified(
    nfc: Lab, knobs: dict[str, Any], options: dict[str, Any]
) -> None:
    nfc.sim.do.set_knobs("nfc", **knobs)
    nfc.make_transport = with_options(**options)
    with pytest.raises(SourceUnavailable, match=r"certificate|identify"):
        nfc.ingest()

    assert counts(nfc)["tickets_spent"] == 0
    assert "CreateSnapshot_Task" not in nfc.sim.do.calls()


def test_sha256_of_the_ticket_or_the_host_satisfies_the_option(nfc: Lab) -> None:
    nfc.make_transport = with_options(requires_sha256=True)
    nfc.ingest()
    nfc.sim.do.set_knobs("nfc", sha256=False, pin="certificate")
    nfc.write(0, b"more")
    nfc.ingest()
    nfc.assert_all_true()


def test_weak_identity_and_clear_text_cause_one_warning_each(
    nfc: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    nfc.sim.do.set_knobs("nfc", sha256=False)
    nfc.make_transport = with_options(mode="clear")
    manifest = nfc.ingest(want="full").manifest
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert {disk["transport_mode"] for disk in manifest.metadata["disks"]} == {"nfc"}
    assert len([text for text in texts if "only by the SHA-1 of its certificate" in text]) == 1
    assert len([text for text in texts if "unencrypted" in text]) == 1
    nfc.assert_all_true()


def test_secrets_go_to_no_log_and_the_password_to_no_host(
    nfc: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, sent = list[str](), list[bytes]()
    parse, send = tickets.parse_ticket, Channel.send

    def parsed(*words: Any) -> tickets.Ticket:
        ticket = parse(*words)
        tokens.append(ticket.token.reveal())
        return ticket

    def recorded(channel: Channel, data: bytes) -> None:
        sent.append(data)
        send(channel, data)

    monkeypatch.setattr(tickets, "parse_ticket", parsed)
    monkeypatch.setattr(Channel, "send", recorded)
    nfc.sim.do.on_nfc(point="read", action="close")
    nfc.sim.do.on_nfc(point="proxy", action="text", text="530 Login incorrect", at=3)
    with caplog.at_level(logging.DEBUG, "cbtfs"), nfc.session() as session:
        cookie = session.web().cookie().reveal().partition("=")[2].partition(";")[0].strip('"')
        nfc.ingest(want="full")
    everything = caplog.text + repr([record.__dict__ for record in caplog.records])

    assert len(tokens) > 3
    assert not [token for token in tokens if token in everything]
    assert cookie
    assert cookie not in everything
    assert any(tokens[0].encode() in data for data in sent)
    assert not any(nfc.sim.user.password.encode() in data for data in sent)
    assert not any(nfc.sim.user.name.encode() in data for data in sent)


# life cycle


@pytest.mark.parametrize("removed", ["frozen", "merged"])
def test_a_snapshot_that_vanishes_costs_the_point(nfc: Lab, removed: str) -> None:
    nfc.sim.do.set_knobs("nfc", removed=removed)
    nfc.write(0, b"all over" * (MIB // 4))

    def vanish() -> None:
        nfc.sim.do.remove_snapshot(nfc.sim.do.vms()[0]["snapshots"][0]["id"])

    with pytest.raises(SourceUnavailable, match="was removed while its disks were read"):
        nfc.ingest(want="full", include=("Hard disk 1",), on_disk=once(vanish))
    assert len(list((nfc.repository / "points").glob("*.state"))) == 1
    nfc.ingest()
    nfc.assert_all_true()


def once(work: Callable[[], None]) -> Callable[[str, int], Callable[[int], None]]:
    """Return a callback for progress that does *work* after the first bytes were read."""
    done = threading.Event()

    def on_disk(label: str, size: int) -> Callable[[int], None]:
        def on_bytes(count: int) -> None:
            if not done.is_set():
                done.set()
                work()

        return on_bytes

    return on_disk


def test_disks_are_closed_before_the_snapshot_is_removed(nfc: Lab) -> None:
    nfc.sim.knobs.change("snapshot", locked_by_readers=True)
    nfc.ingest(want="full")
    numbers = counts(nfc)

    assert not nfc.sim.do.vms()[0]["consolidation_needed"]
    assert numbers["opened"] == numbers["closed"] > 0
    assert numbers["open_disks"] == 0


def test_a_host_that_leaves_maintenance_in_time_costs_nothing(nfc: Lab) -> None:
    here = "esx1"
    nfc.sim.do.on_nfc(
        point="read",
        action="operation",
        operation="host",
        arguments={"host": here, "maintenance": True},
        at=2,
    )
    nfc.sim.do.on_call(
        "NfcGetVmFiles",
        action="operation",
        operation="host",
        arguments={"host": here, "maintenance": False},
        at=5,
    )
    nfc.ingest(want="full")

    nfc.assert_all_true()
    assert counts(nfc)["tickets_issued"] > 3


def test_a_host_that_stays_in_maintenance_costs_the_point_after_some_retries(nfc: Lab) -> None:
    host = {"host": "esx1", "maintenance": True}
    nfc.sim.do.on_nfc(point="read", action="operation", operation="host", arguments=host, at=2)
    with pytest.raises(SourceUnavailable, match=r"cannot read .*in maintenance, disconnected"):
        nfc.ingest(want="full")

    assert nfc.sim.do.calls().count("NfcGetVmFiles") < 40
    assert nfc.snapshots() == []


def test_the_login_is_renewed_for_a_ticket(nfc: Lab) -> None:
    nfc.sim.do.on_call("NfcGetVmFiles", action="expire-session", at=2)
    nfc.ingest(want="full")
    nfc.assert_all_true()


def test_tickets_use_the_connection_of_the_session(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[Any] = []
    serve = HttpsServer.finish_request

    def count(server: HttpsServer, request: Any, client: Any) -> None:
        accepted.append(client)
        serve(server, request, client)

    monkeypatch.setattr(HttpsServer, "finish_request", count)
    with lab.session() as session:
        (vm,) = list_vms(session)
        before, office = len(accepted), tickets.TicketOffice(session.web())
        tokens = {office.ticket(vm.id).token.reveal() for _ in range(5)}
        lab.sim.do.on_call("NfcGetVmFiles", action="lost-reply", times=1)
        after_a_loss = office.ticket(vm.id).token.reveal()

        assert len(accepted) - before == 1  # the call after the loss
        assert len(tokens | {after_a_loss}) == 6


def test_a_rejected_ticket_is_replaced_once(nfc: Lab) -> None:
    refusal = {"point": "proxy", "action": "text", "text": "530 Login incorrect"}
    nfc.sim.do.on_nfc(**refusal, at=3, times=1)
    nfc.ingest(want="full")
    nfc.sim.do.on_nfc(**refusal, at=3, times=99)
    with pytest.raises(SourceUnavailable, match="530 Login incorrect"):
        nfc.ingest(want="full")

    nfc.assert_all_true()


def test_an_unknown_record_reopens_the_disk_once(nfc: Lab) -> None:
    nfc.sim.do.on_nfc(point="read", action="unsolicited", code=17, at=2)
    nfc.ingest(want="full")
    nfc.sim.do.on_nfc(point="read", action="unsolicited", code=17, at=2, times=99)
    with pytest.raises(SourceUnavailable, match="not in flight"):
        nfc.ingest(want="full")

    nfc.assert_all_true()


def test_a_host_that_opens_another_disk_after_a_failure_is_refused(nfc: Lab) -> None:
    nfc.sim.do.on_nfc(
        point="read",
        action="operation",
        operation="set_knobs",
        arguments={"group": "nfc", "size_delta": 512},
        at=2,
    )
    nfc.sim.do.on_nfc(point="read", action="close", at=3)
    with pytest.raises(SourceUnavailable, match="it is another disk"):
        nfc.ingest(want="full")


# limits


def test_a_host_without_memory_gets_fewer_and_smaller_requests(
    tmp_path: Path, certificate: Certificate
) -> None:
    with Simulator(one_vm(DiskEntry(size=4 * MIB)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_nfc)
        lab.write(0, bytes(range(1, 256)) * 15_000)
        sim.do.set_knobs("nfc", budget=384 << 10)
        lab.ingest()

        lab.assert_all_true()
        assert counts(lab)["over_budget"] > 0


# the choice


def run_command(lab: Lab, *more: str) -> int:
    return main(arguments(lab, *more)[3:])


@pytest.fixture
def password(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", lab.sim.user.password)


def transport_of(lab: Lab, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """Take a point by the command; return its transport, and why others were refused."""
    assert run_command(lab, VM) == 0
    point = json.loads(capsys.readouterr().out)["points"][0]
    assert main(["--repo", str(lab.repository), "show", "--json", point["point"]]) == 0
    metadata = json.loads(capsys.readouterr().out)["metadata"]
    return point["transport"], metadata["transports_refused"]


def test_auto_keeps_datastore_where_the_port_is_closed(
    lab: Lab, password: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = tickets.parse_ticket
    monkeypatch.setattr(tickets, "parse_ticket", lambda *words: replace(parse(*words), port=1))
    transport, refused = transport_of(lab, capsys)

    assert transport == "datastore"
    assert "nfc: Hard disk 1: cannot connect to 127.0.0.1:1: Connection refused" in refused


def test_auto_keeps_datastore_where_the_privilege_is_missing(
    tmp_path: Path,
    certificate: Certificate,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = UserEntry("backup", "vsim", denied=("VirtualMachine.Provisioning.GetVmFiles",))
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    with Simulator(replace(one_vm(), users=(user,)), certificate=certificate) as sim:
        transport, refused = transport_of(new_lab(sim, tmp_path), capsys)

        assert transport == "datastore"
        (why,) = [text for text in refused if text.startswith("nfc")]
        assert "lacks the privilege VirtualMachine.Provisioning.GetVmFiles" in why


def test_auto_keeps_datastore_where_the_host_refuses_the_disk(
    lab: Lab, password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.sim.do.on_nfc(point="open", action="error", code=6, text="locked", times=99)
    transport, refused = transport_of(lab, capsys)

    assert transport == "datastore"
    assert any("the host refuses OPEN_FILE with error 6: 'locked'" in text for text in refused)


def test_an_unknown_mode_is_a_usage_error(lab: Lab, password: None) -> None:
    assert run_command(lab, "--nfc-mode", "plain", VM) == 2


# the function for other callers


def test_ranges_of_a_vm_that_is_off_are_read_without_a_snapshot(lab: Lab) -> None:
    lab.sim.do.power(VM, "off")
    live = Path(next(d["file"] for d in lab.sim.do.vms()[0]["disks"] if d["key"] == FIRST))
    with lab.session() as session:
        (vm,) = list_vms(session)
        disk = TransportDisk(
            "Hard disk 1", vm.id, "", FIRST, 2 * MIB, "[datastore1] web1/web1.vmdk",
            "VMFS", vm.datacenter, is_flat=True, is_alone=True,
        )  # fmt: skip
        with opened_by_nfc(session.web(), disk) as reader:
            assert reader.read(Extent(99_999, 70_001)) == live.read_bytes()[99_999:170_000]
            filled = bytearray(b"x" * 200_000)
            for extent in (Extent(0, 65536), Extent(512, 131_072), Extent(1, 70_000)):
                part = memoryview(filled)[: extent.length]
                reader.read_into(extent, [part])
                assert part == live.read_bytes()[extent.start : extent.end]
            assert reader.facts.pinned_by == ("sha1", "sha256")
            assert reader.database("uuid")
            assert reader.database("none") is None
        with pytest.raises(SourceUnavailable, match="is closed"):
            reader.read(Extent(0, 1))
    assert counts(lab)["open_disks"] == 0
