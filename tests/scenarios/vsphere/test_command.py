"""`ingest vsphere`: documents, exit codes, several VMs at once, passwords, signals."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cbtfs.cli.main import app, main
from tests.make_points import SIGNALS
from tests.scenarios.vsphere.command import ROOT, arguments, done, environment, start
from tests.scenarios.vsphere.site import MIB, VM, Lab, new_lab, one_vm
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate


@pytest.fixture
def fleet(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    """Five VMs, two with the same name."""
    machines = tuple(
        MachineEntry(name, folder=folder, cbt=True, disks=(DiskEntry(size=MIB),))
        for name, folder in (("web1", ""), ("web2", ""), ("db", ""), ("twin", "a"), ("twin", "b"))
    )
    with Simulator(Inventory(machines=machines), certificate=certificate) as sim:
        made = new_lab(sim, tmp_path)
        for vm in sim.do.vms():
            sim.do.write(vm["id"], 2000, 5000, f"on {vm['id']}".encode() * 1000)
        yield made


def call(
    lab: Lab, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, dict[str, Any], str]:
    """Call the command in this process, which starts faster."""
    code = main(arguments(lab, *more)[3:])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")


def test_a_document_of_one_vm(lab: Lab) -> None:
    code, document, words = done(lab)

    assert code == 0, words
    (point,) = document["points"]
    assert document["failed"] == []
    assert point["vm"] == VM
    assert point["kind"] == "full"
    assert [disk["disk"] for disk in point["disks"]] == ["Hard disk 1", "Hard disk 2"]
    assert point["transport"] == "nfc"
    assert point["left_out"] == []
    assert point["seconds"] > 0


def test_several_vms_at_once(fleet: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("web*", "db", "/DC0/vm/a/twin", "/DC0/vm/b/twin")
    code, document, _ = call(fleet, capsys, "--jobs", "3", *names)
    again, second, _ = call(fleet, capsys, "--jobs", "3", *names)

    assert (code, again) == (0, 0)
    assert sorted(p["vm"] for p in document["points"]) == ["db", "twin", "twin", "web1", "web2"]
    assert {p["kind"] for p in second["points"]} == {"incremental"}
    for vm in fleet.sim.do.vms():
        assert vm["snapshots"] == []


def test_points_of_several_vms_are_correct_and_separate(fleet: Lab) -> None:
    results = fleet.ingest_all("web*", "db", "/DC0/vm/a/twin", "/DC0/vm/b/twin", jobs=4)
    manifests = [outcome.manifest for _, outcome in results.done]

    for manifest in manifests:
        fleet.assert_true(manifest)
    assert len({manifest.vm.id for manifest in manifests}) == 5
    assert len({manifest.vm.directory for manifest in manifests}) == 5


def test_one_vm_that_fails_does_not_stop_the_others(
    fleet: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.sim.do.on_call(
        "CreateSnapshot_Task",
        action="task-fault",
        fault="vim.fault.NoDiskSpace",
        target="web2",
        times=9,
    )
    code, document, words = call(fleet, capsys, "web*", "db", "twin", "none")

    assert code == 3
    assert [p["vm"] for p in document["points"]] == ["web1", "db"]
    assert {f["vm"]: f["exit"] for f in document["failed"]} == {"web2": 30, "twin": 2, "none": 2}
    assert "free space on the datastore" in words
    assert "/DC0/vm/a/twin, /DC0/vm/b/twin" in words


def test_several_vms_are_printed_as_a_table_and_one_line_each(
    fleet: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.NoDiskSpace", target="web2")
    wanted = ("--jobs", "2", "web*", "/DC0/vm/a/twin", "/DC0/vm/b/twin", "none")
    code = main([word for word in arguments(fleet, *wanted)[3:] if word != "--json"])
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()

    assert code == 3
    columns = ("vm", "result", "kind", "read", "stored", "time", "transport", "reason")
    assert header.lower().split() == list(columns)
    assert [row.split()[:3] for row in rows if "done" in row] == [
        ["web1", "done", "full"],
        ["/DC0/vm/a/twin", "done", "full"],
        ["/DC0/vm/b/twin", "done", "full"],
    ]
    assert [row.split()[:2] for row in rows[1::3]] == [["web2", "failed"], ["none", "failed"]]
    assert "free space on the datastore" in rows[1]
    lines = [line for line in err.splitlines() if line.startswith("cbtfs: [")]
    assert [line.split()[1] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert any(" web2: failed with 30 after " in line for line in lines)
    assert any(" /DC0/vm/b/twin: full, 64.0 KiB read, " in line for line in lines)


def test_the_document_has_duration_and_number_of_tries(
    fleet: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.NoDiskSpace", target="web2")
    _, document, _ = call(fleet, capsys, "web*")

    (point,), (failed,) = document["points"], document["failed"]
    assert (point["vm"], point["tries"]) == ("web1", 1)
    assert (failed["vm"], failed["path"], failed["tries"]) == ("web2", "/DC0/vm/web2", 1)
    assert 0 < failed["seconds"] < document["seconds"]


def test_if_all_fail_the_exit_code_is_that_of_the_failures(
    fleet: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, _ = call(fleet, capsys, "--incremental-only", "--transport", "nbd", "web1")
    assert (code, document["failed"][0]["exit"]) == (30, 30)
    fleet.sim.do.set_cbt("web1", False)
    fleet.sim.do.snapshot("web1", "theirs")
    uri = fleet.sim.nbd_uri + "{vm}/{snapshot}/{key}"
    assert call(fleet, capsys, "--nbd-uri", uri, "web1")[0] == 0
    assert call(fleet, capsys, "--nbd-uri", uri, "--incremental-only", "web1")[0] == 32


def test_omitted_disks_show_in_exit_code_and_document(
    tmp_path: Path, certificate: Certificate, capsys: pytest.CaptureFixture[str]
) -> None:
    disks = (DiskEntry(size=MIB), DiskEntry(size=MIB, mode="independent_persistent"))
    inventory = Inventory(machines=(MachineEntry(VM, disks=disks),))
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        code, document, words = call(lab, capsys)

        assert code == 3
        assert document["points"][0]["left_out"][0]["disk"] == "Hard disk 2"
        assert "independent_persistent" in words
        assert call(lab, capsys, "--exclude-disk", "Hard disk 2", VM)[0] == 0


def test_without_json_points_are_printed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([word for word in arguments(lab)[3:] if word != "--json"])
    out, err = capsys.readouterr()

    assert code == 0
    assert "first restore point of this disk" in out
    assert "change tracking enabled" in err


def test_a_password_file_is_used(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "wrong")
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("vsim\n")

    assert call(lab, capsys, "--password-file", str(file), VM)[0] == 0
    assert call(lab, capsys)[0] == 31


def test_without_any_password_there_is_no_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CBTFS_VSPHERE_PASSWORD")
    code, _, words = call(lab, capsys)

    assert code == 2
    assert "--password-file" in words


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--full", "--incremental-only", VM), "mutually exclusive"),
        (("--thumbprint", "AA", VM), "mutually exclusive"),
        (("--transport", "ftp", VM), "use one of auto, vddk"),
        (("--max-snapshot-age", "soon", VM), "Invalid value for '--max-snapshot-age': 'soon'"),
        (("--nbd-uri", "nbd://x/{nonsense}", VM), "the fields are {vm}"),
    ],
)
def test_contradictory_options_are_a_usage_error(
    lab: Lab, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    code, _, said = call(lab, capsys, *more)

    assert code == 2
    assert words in said
    assert "CreateSnapshot_Task" not in lab.sim.do.calls()


def test_the_help_shows_a_command_to_type() -> None:
    shown = CliRunner().invoke(app, ["ingest", "vsphere", "--help"])

    assert "cbtfs ingest vsphere --server vc1" in shown.output


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_removes_the_snapshot(tracked: Lab, number: signal.Signals, code: int) -> None:
    tracked.sim.do.on_call("QueryChangedDiskAreas", action="delay", seconds=0.5)
    tracked.sim.do.calls(clear=True)
    with start(tracked) as process:
        tracked.sim.do.wait_call("QueryChangedDiskAreas")
        process.send_signal(number)
        _, words = process.communicate(timeout=60)

    assert process.returncode == code, words
    assert "RemoveSnapshot_Task" in tracked.sim.do.calls()
    tracked.assert_clean()
    tracked.ingest()
    tracked.assert_all_true()


def test_a_terminal_that_hangs_up_leaves_no_snapshot(tracked: Lab) -> None:
    """The snapshot is removed even though messages can no longer be written."""
    tracked.sim.do.on_call("QueryChangedDiskAreas", action="delay", seconds=0.5)
    tracked.sim.do.calls(clear=True)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*SIGNALS, "setsid", "--ctty", *(word for word in arguments(tracked) if word != "--json")],
        cwd=ROOT,
        env=environment(tracked.sim),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        tracked.sim.do.wait_call("QueryChangedDiskAreas")
        os.close(ours)
        process.wait(60)

    assert process.returncode == 129
    assert "RemoveSnapshot_Task" in tracked.sim.do.calls()
    tracked.assert_clean()


def test_a_second_writer_is_locked_out_before_it_logs_in(lab: Lab) -> None:
    with lab.context():
        lab.sim.do.calls(clear=True)
        code, _, words = done(lab)

    assert code == 11
    assert "locked by process" in words
    assert "Login" not in lab.sim.do.calls()


# secrets


def test_password_and_cookie_show_nowhere(tmp_path: Path, certificate: Certificate) -> None:
    secret = "Tr0ub4dor-and-3-more"
    inventory = Inventory(users=(UserEntry("backup", secret),), machines=one_vm(cbt=True).machines)
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        file = tmp_path / "password"
        file.touch(0o600)
        file.write_text(secret)
        sim.do.on_call("CreateSnapshot_Task", action="hold-task")
        sim.do.calls(clear=True)
        with subprocess.Popen(
            arguments(lab, "--password-file", str(file), VM),
            cwd=ROOT,
            env={k: v for k, v in environment(sim).items() if k != "CBTFS_VSPHERE_PASSWORD"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            sim.do.wait_call("WaitForUpdatesEx")
            (session,) = sim.site.sessions
            cookie = session.key
            proc = Path(f"/proc/{process.pid}")
            shown = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
            sim.do.release_tasks()
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        sim.do.on_call("QueryEvents", action="garbage", times=99)
        sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.InvalidPowerState")
        _, document, words = done(lab, "--password-file", str(file), VM)
        files = b"".join(f.read_bytes() for f in lab.repository.rglob("*") if f.is_file())
        everything = shown + files + (output + words + json.dumps(document)).encode()

    for hidden in (secret, cookie):
        assert hidden.encode() not in everything
    assert document["failed"]


def test_a_failed_login_does_not_show_the_password(lab: Lab) -> None:
    secret = "Tr0ub4dor-and-3-more"
    with subprocess.Popen(
        arguments(lab),
        cwd=ROOT,
        env=environment(lab.sim, CBTFS_VSPHERE_PASSWORD=secret),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 31
    assert secret not in output
    assert "rejects the user or password" in output
