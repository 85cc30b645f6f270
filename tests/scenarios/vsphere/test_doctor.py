"""`cbtfs doctor`: obstacles with severity and fix, compared with the result of a backup."""

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.doctor.reach import unreachable_endpoints
from cbtfs.source.vsphere.connect.role import ROLE, Privilege
from tests.make_points import new_repository
from tests.scenarios.vsphere.nbdkit import install
from tests.scenarios.vsphere.server import at, call
from tests.scenarios.vsphere.site import MIB, VM
from tests.scenarios.vsphere.vddk import libdir
from tools.vsim import (
    DatastoreEntry,
    DiskEntry,
    HostEntry,
    Inventory,
    MachineEntry,
    Simulator,
    UserEntry,
)
from tools.vsim.soap.certificate import Certificate

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]
Document = dict[str, Any]
HERE = "127.0.0.1"


def disk(**parts: Any) -> DiskEntry:
    return DiskEntry(size=MIB, **parts)


def machine(name: str, *disks: DiskEntry, **parts: Any) -> MachineEntry:
    return MachineEntry(name, disks=disks or (disk(),), **parts)


MACHINES = (
    machine(VM, cbt=True),
    machine("off", power="off", cbt=True),
    machine("untracked"),
    machine("old", hardware=4, power="off"),
    machine("setting", power="off", cbt=True),
    machine("mould", template=True),
    machine("diskless", DiskEntry(size=MIB)),
    machine("aside", disk(), disk(mode="independent_persistent"), cbt=True),
    machine("all-aside", disk(mode="independent_persistent"), cbt=True),
    machine("raw", disk(), disk(backing="rdm-physical"), cbt=True),
    machine("mapped", disk(), disk(backing="rdm-virtual"), cbt=True),
    machine("shared", disk(sharing="sharingMultiWriter"), cbt=True),
    machine("bus", shared_bus="physicalSharing", cbt=True),
    machine("version1", disk(), disk(backing="sparse1"), cbt=True),
    machine("elsewhere", disk(datastore="vsan"), cbt=True),
)
INVENTORY = Inventory(
    hosts=(HostEntry(HERE),),
    datastores=(DatastoreEntry(), DatastoreEntry("vsan", type="vsan")),
    machines=MACHINES,
)


@pytest.fixture
def sim(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    with Simulator(INVENTORY, certificate=certificate) as made:
        for disk_of_none in list(made.do.find_vm("diskless").disks):
            made.do.remove_disk("diskless", disk_of_none.spec.key)
        made.do.set_disk_tracking("setting", 2000, False)
        made.do.calls(clear=True)
        yield made


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.create_server((HERE, 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port that is bound, so that nobody else takes it, but not listening."""
    with socket.socket() as silent:
        silent.bind((HERE, 0))
        yield silent.getsockname()[1]


def findings_of(document: Document, check: str) -> list[tuple[str, str]]:
    """Return severity and text of all findings of a check."""
    places = [
        document["server"], *document["hosts"], *document["datastores"], *document["vms"]
    ]  # fmt: skip
    return [
        (finding["severity"], f"{finding['text']}: {finding['fix']}")
        for place in places
        for finding in place["findings"]
        if finding["check"] == check
    ]


def test_a_tracked_vm_has_no_obstacle(sim: Simulator, capsys: Capture) -> None:
    code, document, words = call(sim, capsys, "doctor", VM, "off")

    assert code == 0, words
    for vm in document["vms"]:
        assert (vm["findings"], vm["blocked_by"], vm["transport"]) == ([], [], "nfc")
        assert (vm["host"], vm["datastores"]) == (HERE, ["datastore1"])
        assert [refusal.partition(":")[0] for refusal in vm["refused"]] == ["vddk", "nbd"]
    assert document["server"]["product"].startswith("VMware vCenter Server 8.0.3")
    assert not [call for call in sim.do.calls() if call.endswith("_Task")]


TROUBLES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # name of the VM: preparation, check, severity, words of the finding
    "old": ({}, "hardware", "full", "vmx-04 cannot track changes: power it off, and give"),
    "mould": ({}, "template", "blocks", "convert it to a VM"),
    "diskless": ({}, "disk", "blocks", "it has no disk: exclude it"),
    "untracked": ({}, "cbt", "info", "change tracking is off: the next backup"),
    "aside": ({}, "disk", "warning", "give --exclude-disk 'Hard disk 2'"),
    "all-aside": ({}, "disk", "blocks", "snapshots include none of its disks"),
    "raw": ({}, "disk", "blocks", "change the mapping to virtual compatibility"),
    "mapped": ({}, "transport", "full", "datastore: Hard disk 2: its backing is not a flat"),
    "shared": ({}, "disk", "blocks", "disable multi-writer"),
    "bus": ({}, "disk", "blocks", "physicalSharing): set the controller's bus sharing to none"),
    "version1": ({}, "disk", "full", "SparseVer1BackingInfo cannot be tracked"),
    "elsewhere": ({}, "transport", "full", "its datastore is of type vsan"),
    "snapshot": (
        {"snapshot": {"name": "by hand"}}, "snapshot", "full",
        "it has the snapshot 'by hand', 3 days old, not of cbtfs (VMware KB 1020128): remove it",
    ),
    "run": (
        {"snapshot": {"name": f"cbtfs-01234567-{'a' * 32}"}}, "snapshot", "warning",
        "of a run of 'cbtfs ingest vsphere': wait for its end",
    ),
    "stun": (
        {"snapshot": {"name": f"cbtfs-stun-{'a' * 32}"}}, "snapshot", "info",
        "left by a 'cbtfs cbt' that was killed: the next backup or 'cbtfs cbt enable' removes it",
    ),
    "stun-off": (
        {"set_cbt": {"enabled": False}, "snapshot": {"name": f"cbtfs-stun-{'a' * 32}"}},
        "cbt", "info", "change tracking is off: the next backup or 'cbtfs cbt enable' enables it",
    ),
    "left-over": ({"left_over": {}}, "consolidation", "warning", "consolidate them"),
    "suspended": (
        {"set_cbt": {"enabled": False}, "power": {"state": "suspend"}}, "cbt", "full",
        "cannot be enabled: the VM is suspended: fix this",
    ),
    "asleep": ({"power": {"state": "suspend"}}, "power", "info", "disks are captured, its memory"),
    "asking": ({"ask": {"question": "moved?"}}, "question", "blocks", "answer to 'moved?'"),
    "pending": ({"pend": {}}, "cbt", "info", "Hard disk 1 is not tracked yet"),
    "switched": ({"switch": {}}, "cbt", "full", "scsi0:0.ctkEnabled is not TRUE"),
}  # fmt: skip


def trouble(sim: Simulator, name: str) -> str:
    """Prepare a VM as in the table; return its name."""
    deeds = TROUBLES[name][0]
    vm = VM if deeds else name
    for operation, arguments in deeds.items():
        if operation == "left_over":
            sim.do.set_knobs("snapshot", needs_consolidation=True)
            sim.do.remove_snapshot(sim.do.snapshot(vm, "half removed"))
            sim.do.set_knobs("snapshot", needs_consolidation=False)
        elif operation == "pend":
            sim.do.set_cbt(vm, False)
            sim.do.stun(vm)
            sim.do.set_cbt(vm, True)
        elif operation == "switch":
            there = sim.do.find_vm(vm)
            there.configure(replace(there.spec, extra={"ctkEnabled": "TRUE"}))
            sim.do.stun(vm)
        else:
            sim.do.find_operation(operation)(vm, **arguments)
    return vm


@pytest.mark.parametrize("name", TROUBLES)
def test_an_obstacle_is_named_with_its_fix(sim: Simulator, capsys: Capture, name: str) -> None:
    _, check, severity, words = TROUBLES[name]
    vm = trouble(sim, name)
    if "days old" in words:
        sim.do.advance(3 * 86400 + 60)
    if check == "transport":
        sim.do.set_knobs("nfc", version=2)
    code, document, _ = call(sim, capsys, "doctor", vm)

    findings = findings_of(document, check)
    assert any(level == severity and words in text for level, text in findings), findings
    is_blocked = "blocks" in {finding["severity"] for finding in document["vms"][0]["findings"]}
    assert (document["vms"][0]["blocked_by"] == ["vm"]) is is_blocked
    assert code == (3 if is_blocked else 0)


@pytest.mark.parametrize("name", TROUBLES)
def test_a_backup_matches_the_report_of_doctor(
    sim: Simulator, capsys: Capture, tmp_path: Path, name: str
) -> None:
    """A point is taken unless doctor reports a block; transport and kind are as reported."""
    vm = trouble(sim, name)
    # Another transport reads the disk completely while the snapshot of a run exists.
    by = ("--transport", "datastore") if name == "run" else ()
    _, document, _ = call(sim, capsys, "doctor", *by, vm)
    (reported,) = document["vms"]
    if name == "asking":
        sim.do.on_call(
            "CreateSnapshot_Task", action="task-fault", fault="vim.fault.QuestionPending", times=9
        )
    repository = ("--repo", str(new_repository(tmp_path / "r")), "ingest", "vsphere")
    code, first, _ = call(sim, capsys, *repository, *by, vm)
    _, second, _ = call(sim, capsys, *repository, *by, vm)

    assert bool(reported["blocked_by"]) == (not first["points"]), first
    if not reported["blocked_by"]:
        assert first["points"][0]["transport"] == reported["transport"]
        is_full = any(finding["severity"] == "full" for finding in reported["findings"])
        if not second["points"]:
            assert reported["transport"] == "httpnfc"
            assert "give --full" in second["failed"][0]["error"]
            _, second, _ = call(sim, capsys, *repository, "--full", vm)
        kinds = {disk["kind"] for disk in second["points"][0]["disks"]}
        # The clean-up of the first run may have removed the obstacle for other transports.
        is_over = second["points"][0]["transport"] != reported["transport"]
        assert ("full" in kinds) is (is_full and not is_over)
        is_partial = any(
            finding["check"] == "disk" for finding in reported["findings"] if not is_full
        )
        assert code == (3 if is_partial else 0)


def test_a_backup_by_vmwares_library_matches_the_report_of_doctor(
    sim: Simulator, capsys: Capture, tmp_path: Path, open_port: int
) -> None:
    sim.do.snapshot(VM, "by hand")
    vms, by = (VM, "mapped", "elsewhere", "raw"), ("--vddk-libdir", str(libdir(sim)))
    _, document, _ = call(sim, capsys, "doctor", *by, "--nfc-port", str(open_port), *vms)
    repository = ("--repo", str(new_repository(tmp_path / "r")), "ingest", "vsphere")
    _, taken, _ = call(sim, capsys, *repository, *by, *vms)

    reported = {vm["vm"]: vm["transport"] for vm in document["vms"] if not vm["blocked_by"]}
    assert reported == {VM: "vddk", "mapped": "vddk", "elsewhere": "vddk"}
    assert {point["vm"]: point["transport"] for point in taken["points"]} == reported


# privileges


def asked(
    certificate: Certificate, capsys: Capture, lacks: str, *more: str, vddk: bool = False
) -> tuple[int, Document]:
    user = UserEntry("backup", "vsim", denied=(lacks,))
    inventory = replace(INVENTORY, users=(user,))
    with Simulator(inventory, certificate=certificate) as sim, socket.create_server((HERE, 0)) as s:
        sim.do.set_disk_tracking("setting", 2000, False)
        by = ("--vddk-libdir", str(libdir(sim))) if vddk else ()
        port = ("--nfc-port", str(s.getsockname()[1]))
        code, document, words = call(sim, capsys, "doctor", *port, *by, *(more or (VM,)))
        assert "Traceback" not in words
        return code, document


@pytest.mark.parametrize(
    "privilege", [entry for entry in ROLE if entry.id != "System.Read"], ids=lambda entry: entry.id
)
def test_each_missing_privilege_of_the_role_is_reported_if_needed(
    certificate: Certificate,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    privilege: Privilege,
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    vm = {"enable": "untracked", "upgrade": "old", "setting": "setting", "export": "mapped"}.get(
        privilege.use, VM
    )
    by_library = privilege.use in ("vddk", "hold")
    names = {"datastore": "datastore", "nfc": "nfc", "export": "httpnfc"}
    by = ("--transport", names[privilege.use]) if privilege.use in names else ()
    code, document = asked(certificate, capsys, privilege.id, *by, vm, vddk=by_library)
    mild = {"hold": "warning", "upgrade": "info", "setting": "info"}
    severity = mild.get(privilege.use, "blocks")

    assert [level for level, _ in findings_of(document, "privilege")] == [severity]
    assert f"backup lacks {privilege.id}, for" in findings_of(document, "privilege")[0][1]
    whose = {"vm": "vm", "datastore": "datastore datastore1", "root": "server"}[privilege.on]
    assert document["vms"][0]["blocked_by"] == ([whose] if severity == "blocks" else [])
    assert code == (3 if severity == "blocks" else 0)


def test_privileges_of_other_transports_are_not_reported(
    certificate: Certificate, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    code, document = asked(certificate, capsys, "Global.*")
    assert (code, findings_of(document, "privilege")) == (0, [])
    code, document = asked(certificate, capsys, "Datastore.*", vddk=True)

    assert code == 0
    assert {level for level, _ in findings_of(document, "privilege")} == {"warning"}


def test_a_user_without_the_privilege_for_tickets_keeps_another_transport(
    certificate: Certificate, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    code, document = asked(certificate, capsys, "VirtualMachine.Provisioning.GetVmFiles")
    (vm,) = document["vms"]

    assert (code, vm["transport"], vm["findings"]) == (0, "datastore", [])
    assert vm["refused"][-1] == "nfc: the user lacks VirtualMachine.Provisioning.GetVmFiles"


def test_privileges_missing_at_the_root_folder_are_reported_to_a_restricted_user(
    sim: Simulator, capsys: Capture
) -> None:
    sim.do.on_call(
        "HasPrivilegeOnEntities",
        fault="vim.fault.NoPermission",
        fields={"privilegeId": "System.View"},
        times=99,
    )
    code, document, _ = call(sim, capsys, "doctor", VM)

    assert code == 3
    assert document["vms"][0]["blocked_by"] == ["vm", "datastore datastore1"]


def test_a_vm_removed_meanwhile_does_not_affect_the_others(sim: Simulator, capsys: Capture) -> None:
    sim.do.on_call(
        "CurrentTime", action="operation", operation="remove_vm", arguments={"vm": "off"}
    )
    code, document, _ = call(sim, capsys, "doctor", VM, "off")

    assert code == 3
    here, gone = document["vms"]
    assert here["findings"] == []
    assert "removed in the meantime" in gone["findings"][0]["text"]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_session_may_end_between_its_questions(
    sim: Simulator, capsys: Capture, number: int
) -> None:
    """NotAuthenticated in an answer renews the session; the VM is not reported as unreadable."""
    sim.knobs.change("session", ended_as="missing-set")
    sim.do.on_call("RetrievePropertiesEx", action="expire-session", at=number)
    code, document, _ = call(sim, capsys, "doctor", VM, "off")

    assert code == 0
    assert [vm["findings"] for vm in document["vms"]] == [[], []]


def test_the_role_in_the_manual_is_the_one_in_the_code() -> None:
    manual = (ROOT / "docs" / "vsphere.md").read_text()
    on = {"vm": "VM", "datastore": "datastore", "root": "vCenter"}
    rows = [f"| `{entry.id}` | {on[entry.on]} | {entry.purpose} |" for entry in ROLE]

    assert "\n".join(["| privilege | on | for |", "|---|---|---|", *rows, ""]) in manual


def test_the_manual_lists_every_check() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "cbtfs" / "doctor").glob("*.py"))
    checks = set(re.findall(r'Finding\(\s*"([a-z]+)"', sources))
    manual = (ROOT / "docs" / "commands.md").read_text()

    assert len(checks) > 10
    assert {check for check in checks if f"`{check}`" not in manual} == set()


# hosts, datastores, the clock


def test_ports_are_tried(sim: Simulator, capsys: Capture, open_port: int, closed_port: int) -> None:
    by = ("--vddk-libdir", str(libdir(sim)))
    code, document, _ = call(sim, capsys, "doctor", *by, "--nfc-port", str(open_port), VM)
    assert (code, document["vms"][0]["transport"]) == (0, "vddk")
    assert not [text for _, text in findings_of(document, "port") if str(open_port) in text]
    code, document, _ = call(sim, capsys, "doctor", *by, "--nfc-port", str(closed_port), VM)

    assert code == 3
    assert document["vms"][0]["blocked_by"] == [f"host {HERE}"]
    (blocking,) = [text for level, text in findings_of(document, "port") if level == "blocks"]
    assert f"cannot connect to port {closed_port}: Connection refused" in blocking
    assert "give --transport datastore" in blocking
    assert document["vms"][0]["others"] == ["nfc", "datastore", "httpnfc"]
    infos = [text for level, text in findings_of(document, "port") if level == "info"]
    assert any("cannot connect to port 443" in text for text in infos)
    https = ("--https-port", str(open_port), "--nfc-port", str(open_port))
    assert findings_of(call(sim, capsys, "doctor", *by, *https, VM)[1], "port") == []
    datastore = ("--transport", "datastore", "--nfc-port", str(closed_port))
    assert call(sim, capsys, "doctor", *datastore, VM)[0] == 0


def test_an_unknown_name_and_a_silent_port_are_reported() -> None:
    with socket.create_server((HERE, 0), backlog=0) as full:
        place = full.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for client in waiting:  # fills the queue of a listener that never accepts
            client.setblocking(False)
            client.connect_ex(place)
        why = unreachable_endpoints({("no-such-host.invalid", 902), place}, 0.3)
        for client in waiting:
            client.close()

    assert "cannot be resolved, add it to DNS" in why[("no-such-host.invalid", 902)]
    assert why[place] == "no answer in 0.3 s"


def test_a_host_that_is_away_blocks_its_vms(sim: Simulator, capsys: Capture) -> None:
    sim.do.host(HERE, connection="notResponding")
    code, document, _ = call(sim, capsys, "doctor", VM)

    assert code == 3
    assert findings_of(document, "connection") == [
        ("blocks", "its state is disconnected: check that its host is running and connected")
    ]


def test_maintenance_mode_is_a_warning(sim: Simulator, capsys: Capture) -> None:
    sim.do.host(HERE, maintenance=True)
    code, document, _ = call(sim, capsys, "doctor", VM)

    assert code == 0
    assert findings_of(document, "host")[0][0] == "warning"


@pytest.mark.parametrize(
    ("state", "severity", "words"),
    [
        ({"free": "512G"}, "warning", "only 3.1% is free"),
        ({"accessible": False}, "blocks", "cannot access"),
    ],
    ids=["full", "away"],
)
def test_a_datastore_that_is_full_or_away(
    sim: Simulator, capsys: Capture, state: dict[str, Any], severity: str, words: str
) -> None:
    sim.do.datastore("datastore1", **state)
    code, document, _ = call(sim, capsys, "doctor", VM)

    assert [level for level, _ in findings_of(document, "datastore")] == [severity]
    assert words in findings_of(document, "datastore")[0][1]
    blocked = ["datastore datastore1"] if severity == "blocks" else []
    assert document["vms"][0]["blocked_by"] == blocked
    assert code == (3 if blocked else 0)


def test_a_wrong_clock_is_reported(sim: Simulator, capsys: Capture) -> None:
    _, document, _ = call(sim, capsys, "doctor", VM)
    assert findings_of(document, "clock") == []
    sim.do.advance(600)
    _, document, _ = call(sim, capsys, "doctor", VM)

    ((severity, text),) = findings_of(document, "clock")
    assert severity == "warning"
    assert re.search(r"clock is (599|600) s ahead of the local clock: synchronize both", text)


# installed libraries and programs


def test_installed_programs_are_reported(
    sim: Simulator, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    _, document, _ = call(sim, capsys, "doctor", "--vddk-libdir", str(libdir(sim)), VM)

    assert "VDDK with interface 8.0" in findings_of(document, "vddk")[0][1]
    assert str(tmp_path / "nbdkit") in findings_of(document, "nbdkit")[0][1]


def test_an_nbd_server_takes_no_privilege_and_no_port(sim: Simulator, capsys: Capture) -> None:
    uri = ("--nbd-uri", sim.nbd_uri + "{vm}/{snapshot}/{key}")
    code, document, _ = call(sim, capsys, "doctor", *uri, "elsewhere", "mapped")

    assert code == 0
    assert {vm["transport"] for vm in document["vms"]} == {"nbd"}


# the command


def test_names_that_fit_nothing_are_kept_apart(sim: Simulator, capsys: Capture) -> None:
    code, document, _ = call(sim, capsys, "doctor", VM, "none")
    assert (code, [vm["vm"] for vm in document["failed"]]) == (3, ["none"])

    assert call(sim, capsys, "doctor", "none")[0] == 2


def test_without_json_findings_are_lines(sim: Simulator, capsys: Capture) -> None:
    code = main(["doctor", *at(sim), VM, "mould"])
    out, _ = capsys.readouterr()

    assert code == 3
    assert f"\n/DC0/vm/{VM}: by nfc\n" in out
    assert "\n/DC0/vm/mould: blocked\n  blocks   it is a template" in out


def test_an_esxi_host_is_looked_at_too(
    certificate: Certificate, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    esxi = replace(INVENTORY, server=replace(INVENTORY.server, kind="esxi"))
    with Simulator(esxi, certificate=certificate) as sim:
        code, document, words = call(sim, capsys, "doctor", VM)

        assert code == 0, words
        assert document["vms"][0]["transport"] == "nfc"


def test_many_vms_take_few_calls(sim: Simulator, capsys: Capture) -> None:
    for number in range(260):
        sim.do.add_vm({"name": f"many{number}", "power": "off", "disk": [{"size": "1M"}]})
    sim.do.calls(clear=True)
    code, document, _ = call(sim, capsys, "doctor", "many*")

    assert code == 0
    assert len(document["vms"]) == 260
    assert len(sim.do.calls()) <= 20, sim.do.calls()
