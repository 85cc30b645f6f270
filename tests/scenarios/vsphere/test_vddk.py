"""VMware's library in separate processes: its failures cost a disk, never the run."""

import contextlib
import ctypes
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.extent import Extent
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.base import copy_into
from cbtfs.source.secret import Secret
from cbtfs.source.transport.base import Transport, TransportDisk
from cbtfs.source.transport.nfc_buffers import NfcHosts, NfcReader
from cbtfs.source.transport.vddk.child import MAX_READ
from cbtfs.source.transport.vddk.library import _VERSIONS, VERSIONS, find_library
from cbtfs.source.transport.vddk.process import ChildProcess
from cbtfs.source.transport.vddk.reader import VddkReader
from cbtfs.source.transport.vddk.transport import VddkTransport
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.vms import list_vms
from tests.scenarios.vsphere.command import ROOT, arguments, done, environment, start
from tests.scenarios.vsphere.site import FIRST, MIB, SECOND, VM, Lab, kinds, new_lab, one_vm
from tests.scenarios.vsphere.vddk import by_vddk, libdir
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate
from tools.vsim.vddk.build import point_at

SHUTDOWN, NOT_AVAILABLE, NO_PERMISSION, ACCESS_DENIED, HOST_AWAY = 14014, 14015, 3014, 35, 3046


@pytest.fixture
def vddk(tracked: Lab) -> Lab:
    """A VM with one point; later points are read by VMware's library."""
    tracked.make_transport = by_vddk
    return tracked


def changed_login(**changes: Any) -> Callable[[Simulator, Session], Transport]:
    def make(sim: Simulator, session: Session) -> Transport:
        return VddkTransport(replace(session.vddk_login(libdir(sim)), **changes))

    return make


def children() -> list[int]:
    """Return the running child processes of this process."""
    pids = ""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            pids += (task / "children").read_text() + " "
    return [int(pid) for pid in pids.split()]


def calls_of(lab: Lab) -> list[str]:
    return [call.removeprefix("VixDiskLib_") for call in lab.sim.do.vddk_calls()]


def held_by(lab: Lab) -> list[str]:
    holders: list[str] = lab.sim.do.vms()[0]["relocation_disabled_by"]
    return holders


def recovers(lab: Lab) -> None:
    """Assert that the next run takes a correct point and that nothing is left."""
    lab.sim.knobs.change("snapshot", keep_truth=True)
    lab.ingest()
    lab.assert_all_true()
    lab.assert_clean()
    assert held_by(lab) == []


# a point


def test_the_order_of_calls_is_that_of_the_guide(vddk: Lab) -> None:
    vddk.sim.do.vddk_calls(clear=True)
    manifest = vddk.ingest().manifest

    calls = calls_of(vddk)
    assert manifest.kind == "incremental"
    assert calls[:3] == ["PrepareForAccess", "ConnectEx", "Open"]
    assert calls[-2:] == ["Close", "EndAccess"]
    assert set(calls[3:-2]) <= {*calls[1:3], "QueryAllocatedBlocks", "Read", "Close"}
    assert "Read" in calls
    assert [calls.count(name) for name in ("ConnectEx", "Open", "Close")] == [2, 2, 2]
    vddk.assert_all_true()
    assert held_by(vddk) == []


def test_the_point_records_the_effective_transport_mode(vddk: Lab) -> None:
    vddk.make_transport = changed_login(modes="hotadd")
    metadata = vddk.ingest().manifest.metadata

    assert metadata["transport"] == "vddk"
    assert {disk["transport_mode"] for disk in metadata["disks"]} == {"nbdssl"}


def test_a_full_reads_only_allocated_extents(vddk: Lab) -> None:
    vddk.sim.do.vddk_calls(clear=True)
    full = vddk.ingest(want="full").manifest

    assert "QueryAllocatedBlocks" in calls_of(vddk)
    assert 0 < full.disks[0].counts.read_bytes < full.disks[0].size
    vddk.assert_all_true()


def test_a_large_disk_is_asked_for_in_pieces(tmp_path: Path, certificate: Certificate) -> None:
    """One query covers 524288 chunks, 32 GiB; the partial chunk at the end counts as allocated."""
    size = (70 << 30) + 512
    with Simulator(one_vm(DiskEntry(size=size)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.write(40 << 30, b"far away" * 10_000)
        snapshot = sim.do.snapshot(VM, "frozen")
        with lab.session() as session:
            reader = by_vddk(sim, session).open(disk_of(session, snapshot, size))
            allocated = list(reader.allocated())
            reader.close()

        assert allocated == [Extent(40 << 30, 128 << 10), Extent(70 << 30, 512)]
        assert calls_of(lab).count("QueryAllocatedBlocks") == 3


@pytest.mark.parametrize("answer", ["unsupported", "malformed"])
def test_without_a_sound_answer_everything_is_allocated(vddk: Lab, answer: str) -> None:
    vddk.sim.knobs.change("vddk", allocated=answer)
    full = vddk.ingest(want="full").manifest

    assert full.disks[0].counts.read_bytes == full.disks[0].size
    vddk.assert_all_true()


def test_a_library_without_asynchronous_reads_is_enough(vddk: Lab) -> None:
    vddk.sim.knobs.change("vddk", asynchronous=False)
    vddk.ingest(want="full")

    vddk.assert_all_true()


# login


def test_the_session_is_used_and_no_other_login_is_made(vddk: Lab) -> None:
    logins = []

    def look(disk: str, size: int) -> Callable[[int], None]:
        logins.append(len(list(vddk.sim.site.sessions)))
        return lambda count: None

    vddk.ingest(on_disk=look)
    vddk.sim.knobs.change("vddk", sessions=False)
    vddk.ingest(on_disk=look, want="full")

    assert set(logins[:2]) == {1}
    assert max(logins[2:]) >= 2
    vddk.assert_all_true()
    vddk.assert_clean()


def test_an_expired_cookie_is_replaced_by_the_password(vddk: Lab) -> None:
    vddk.make_transport = changed_login(cookie=lambda: Secret('vmware_soap_session="old"'))
    vddk.ingest()

    vddk.assert_all_true()
    vddk.assert_clean()


def test_insufficient_permissions_name_the_role(vddk: Lab) -> None:
    vddk.sim.do.on_vddk("VixDiskLib_ConnectEx", code=NO_PERMISSION, times=2)
    with pytest.raises(AccessDenied, match=r"ConnectEx: Insufficient permissions \(3014\).*role"):
        vddk.ingest()
    vddk.assert_clean()


@pytest.mark.parametrize("function", ["ConnectEx", "Open", "Read"])
def test_access_denied_by_the_library_names_the_role(vddk: Lab, function: str) -> None:
    vddk.sim.do.on_vddk(f"VixDiskLib_{function}", code=ACCESS_DENIED, times=99)
    with pytest.raises(AccessDenied, match=rf"{function}: .*\(35\).*role"):
        vddk.ingest()
    vddk.assert_clean()


def test_a_certificate_other_than_the_trusted_one_fails_at_open(
    vddk: Lab, certificate: Certificate
) -> None:
    vddk.make_transport = changed_login(certificate=lambda: b"another certificate")
    words = r"VixDiskLib_Open: Unknown error \(1\): the server's certificate may differ"
    with pytest.raises(SourceUnavailable, match=words):
        vddk.ingest()
    vddk.assert_clean()


def test_the_trusted_certificate_is_not_requested_again(lab: Lab, certificate: Certificate) -> None:
    with lab.session() as session:
        login = session.vddk_login(Path("/nowhere"))
    lab.sim.close()

    assert login.thumbprint() == certificate.thumbprint_sha1


# a library that misbehaves


def test_a_crash_is_an_error_of_the_disk(vddk: Lab) -> None:
    vddk.write(0, b"changed", disk=SECOND)
    vddk.sim.do.on_vddk("VixDiskLib_Read", action="crash")
    outcome = vddk.ingest(allow_partial=True)
    (left,) = outcome.left_out

    assert "VMware's library crashed (SIGSEGV)" in left.reason
    assert kinds(outcome.manifest) == ["incremental"]
    vddk.assert_all_true()
    vddk.assert_clean()
    assert children() == []


def test_a_hanging_library_is_detected_and_killed(
    vddk: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ChildProcess.read

    def read_hastily(self: ChildProcess, start: int, count: int) -> memoryview:
        self._seconds = 1.0  # only now: loading the library may be slow on a busy machine
        return read(self, start, count)

    monkeypatch.setattr(ChildProcess, "read", read_hastily)
    vddk.sim.do.on_vddk("VixDiskLib_Read", action="hang")
    with pytest.raises(SourceUnavailable, match="library hangs: no answer to read in 1 s"):
        vddk.ingest()
    vddk.assert_clean()
    assert children() == []


@pytest.mark.parametrize("action", ["crash", "crash-after"])
@pytest.mark.parametrize("function", ["PrepareForAccess", "EndAccess"])
def test_a_crash_during_the_hold_is_reported_and_does_not_cost_the_point(
    vddk: Lab, function: str, action: str
) -> None:
    """Before the server carried out the call, or after it: cbtfs cannot know which."""
    vddk.sim.do.on_vddk(f"VixDiskLib_{function}", action=action)
    outcome = vddk.ingest()

    assert "VMware's library crashed" in " ".join([*outcome.notes, *outcome.warnings])
    assert outcome.is_whole == (function == "PrepareForAccess")
    if outcome.is_whole:
        vddk.assert_clean()
        assert held_by(vddk) == []
    assert vddk.ingest().is_whole
    vddk.assert_all_true()
    vddk.assert_clean()
    assert held_by(vddk) == []


def test_a_host_with_little_memory_gets_smaller_requests(vddk: Lab) -> None:
    vddk.sim.knobs.change("vddk", nfc_limit=256 << 10)
    vddk.write(0, b"all over" * (MIB // 8))
    vddk.ingest()

    vddk.assert_all_true()


def test_a_host_without_memory_is_given_up(vddk: Lab) -> None:
    vddk.sim.knobs.change("vddk", nfc_limit=4096)
    vddk.write(0, b"all over" * (MIB // 8))
    words = r"cannot read .* Memory allocation failed \(2\): the host's NFC service has no"
    with pytest.raises(SourceUnavailable, match=words):
        vddk.ingest()
    vddk.assert_clean()


@pytest.mark.parametrize("function", ["ConnectEx", "Open", "Read", "QueryAllocatedBlocks"])
@pytest.mark.parametrize("code", [SHUTDOWN, NOT_AVAILABLE, HOST_AWAY])
def test_a_host_in_maintenance_is_tried_again_later(vddk: Lab, function: str, code: int) -> None:
    vddk.sim.do.on_vddk(f"VixDiskLib_{function}", code=code, times=2)
    vddk.ingest(want="full")

    vddk.assert_all_true()
    vddk.assert_clean()


def test_a_host_that_stays_in_maintenance_is_given_up(vddk: Lab) -> None:
    vddk.sim.do.on_vddk("VixDiskLib_Open", code=SHUTDOWN, times=99)
    with pytest.raises(SourceUnavailable, match=r"is being shut down \(14014\)"):
        vddk.ingest()
    assert calls_of(vddk).count("Open") == 1 + len(vddk.retry_policy.busy)
    vddk.assert_clean()


def test_the_pauses_of_later_tries_are_those_of_the_login(vddk: Lab) -> None:
    vddk.sim.do.on_vddk("VixDiskLib_Open", code=SHUTDOWN, times=2)
    snapshot = vddk.sim.do.snapshot(VM, "frozen")
    slept: list[float] = []
    with vddk.session() as session:
        login = replace(session.vddk_login(libdir(vddk.sim)), pauses=(5.0, 20.0, 60.0))
        reader = VddkReader(login, disk_of(session, snapshot), sleep=slept.append)
        assert len(reader.read(Extent(0, 512))) == 512
        reader.close()

    assert slept == [5.0, 20.0]


def disk_of(session: Session, snapshot: str, size: int = 2 * MIB) -> TransportDisk:
    (vm,) = list_vms(session)
    return TransportDisk(
        "Hard disk 1", vm.id, snapshot, FIRST, size, "[datastore1] web1/web1.vmdk", "VMFS",
        vm.datacenter, is_flat=True, is_alone=True,
    )  # fmt: skip


# log lines of the library


def test_a_flood_of_log_lines_disturbs_nothing_and_shows_no_secret(
    vddk: Lab, caplog: pytest.LogCaptureFixture, certificate: Certificate
) -> None:
    caplog.set_level(logging.DEBUG)
    vddk.sim.knobs.change("vddk", log_lines=1000, log_secrets=True)
    cookies: list[str] = []

    def look(disk: str, size: int) -> Callable[[int], None]:
        cookies.extend(login.key for login in vddk.sim.site.sessions)
        return lambda count: None

    vddk.ingest(on_disk=look)
    vddk.sim.knobs.change("vddk", sessions=False)
    vddk.ingest(want="full", on_disk=look)
    messages = [record.getMessage() for record in caplog.records]
    said = [message for message in messages if message.startswith("vddk")]

    assert sum("line 999 of 1000: user administrator@" in message for message in said) >= 8
    for hidden in (*cookies, "=vsim", certificate.thumbprint_sha1):
        assert not any(hidden in message for message in said)
    vddk.assert_all_true()


def test_argv_environments_logs_and_repository_keep_the_secrets(
    tmp_path: Path, certificate: Certificate
) -> None:
    """During a capture: all processes of the machine; afterwards: all files written."""
    secret = "Tr0ub4dor-and-3-more"
    inventory = Inventory(users=(UserEntry("backup", secret),), machines=one_vm(cbt=True).machines)
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.write(0, b"some data" * 1000)
        file = tmp_path / "password"
        file.touch(0o600)
        file.write_text(secret)
        sim.knobs.change("vddk", sessions=False, log_lines=200, log_secrets=True)
        sim.do.on_vddk("VixDiskLib_Read", action="delay", seconds=3600.0)
        more = ("--transport", "vddk", "--vddk-libdir", str(libdir(sim)))
        with subprocess.Popen(
            arguments(lab, "--password-file", str(file), *more, VM),
            cwd=ROOT,
            env={k: v for k, v in environment(sim).items() if k != "CBTFS_VSPHERE_PASSWORD"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            sim.do.wait_vddk("VixDiskLib_Read")
            keys = [login.key for login in sim.site.sessions]
            shown = b"".join(_shown_by_processes())
            descendants = _descendants(process.pid)
            sim.do.advance(3600.0)
            output, _ = process.communicate(timeout=60)
        files = b"".join(f.read_bytes() for f in lab.repository.rglob("*") if f.is_file())

    assert process.returncode == 0, output
    assert len(descendants) >= 2  # one holds the VM, one has opened the disk
    assert len(keys) >= 2
    for hidden in (secret, *keys):
        assert hidden.encode() not in shown + files + output.encode()


def _shown_by_processes() -> Iterator[bytes]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            for name in ("cmdline", "environ"):
                try:
                    yield (folder / name).read_bytes()
                except OSError:
                    continue  # it has ended


def _descendants(pid: int) -> list[int]:
    descendants = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            descendants += [int(child), *_descendants(int(child))]
    return descendants


# the process


def test_the_library_and_its_path_are_the_childs_alone(vddk: Lab) -> None:
    """Its dependencies are loaded by LD_LIBRARY_PATH, without libraries of the system."""
    library = libdir(vddk.sim) / "lib64" / "libvixDiskLib.so.8"
    with pytest.raises(OSError, match="libvsimwire"):
        ctypes.CDLL(str(library))
    snapshot = vddk.sim.do.snapshot(VM, "frozen")
    with vddk.session() as session:
        reader = by_vddk(vddk.sim, session).open(disk_of(session, snapshot))
        (child,) = children()
        maps = Path(f"/proc/{child}/maps").read_text()
        variables = Path(f"/proc/{child}/environ").read_bytes()
        limits = Path(f"/proc/{child}/limits").read_text()
        reader.close()

    assert "libvsimwire.so.1" in maps
    assert not [name for name in ("libssl", "libcrypto", "libstdc++") if name in maps]
    assert f"LD_LIBRARY_PATH={library.parent}".encode() in variables
    assert b"CBTFS" not in variables
    assert re.search(
        r"^Max core file size +0 +0 ", limits, re.M
    )  # a core dump would contain secrets
    assert "vsim" not in Path("/proc/self/maps").read_text()


def test_several_requests_are_in_flight_and_none_is_large(vddk: Lab) -> None:
    snapshot = vddk.sim.do.snapshot(VM, "frozen")
    vddk.sim.do.on_vddk("VixDiskLib_Read", action="delay", seconds=60.0)
    with vddk.session() as session:
        reader = by_vddk(vddk.sim, session).open(disk_of(session, snapshot))
        threads = [threading.Thread(target=reader.read, args=(Extent(0, 512),)) for _ in range(9)]
        for thread in threads:
            thread.start()
        vddk.sim.do.wait_vddk("VixDiskLib_Read")
        vddk.sim.do.advance(60.0)
        for thread in threads:
            thread.join()
        vddk.sim.knobs.change("vddk", nfc_limit=MAX_READ)
        assert len(reader.read(Extent(0, 2 * MIB))) == 2 * MIB
        reader.close()

    assert calls_of(vddk).count("Read") == 9 + 2


def test_a_vcenter_that_restarts_meanwhile_is_waited_for(vddk: Lab) -> None:
    """Reads from the host continue; a new login ends the hold."""
    vddk.retry_policy = replace(vddk.retry_policy, away=60.0, busy=(0.2,) * 50)
    arguments = {"seconds": 0.5, "starting": 0.5}
    vddk.sim.do.on_read(action="operation", operation="restart", arguments=arguments, times=1)
    outcome = vddk.ingest()

    assert outcome.is_whole
    vddk.assert_all_true()
    vddk.assert_clean()
    assert held_by(vddk) == []


# holding the VM


def test_storage_vmotion_is_refused_while_a_vm_is_captured(vddk: Lab) -> None:
    refusals = []

    def move(disk: str, size: int) -> Callable[[int], None]:
        try:
            vddk.sim.do.relocate(VM, "datastore1")
        except Exception as exc:
            refusals.append(str(exc))
        return lambda count: None

    vddk.ingest(on_disk=move)

    assert refusals
    assert all("vim.fault.MethodDisabled" in refusal for refusal in refusals)
    vddk.sim.do.relocate(VM, "datastore1")


def test_a_vm_that_another_product_holds_is_captured_with_a_note(vddk: Lab) -> None:
    machine = vddk.sim.do.find_vm(VM)
    machine.disable_relocation("another product")
    outcome = vddk.ingest()

    said = " ".join(outcome.notes)
    assert "storage vMotion of the VM could not be disabled" in said
    assert "RelocateVM_Task is disabled by 'another product'" in said
    assert held_by(vddk) == ["another product"]
    vddk.assert_all_true()
    vddk.assert_clean()


def test_a_missing_privilege_to_hold_a_vm_is_reported(
    tmp_path: Path, certificate: Certificate
) -> None:
    user = UserEntry("backup", "vsim", denied=("Global.DisableMethods",))
    inventory = Inventory(users=(user,), machines=one_vm(cbt=True).machines)
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_vddk)
        outcome = lab.ingest()

        assert re.search(r"could not be disabled: .*\(3014\): the user's role", outcome.notes[0])
        lab.assert_all_true()
        lab.assert_clean()


def killed(lab: Lab, *, with_its_children: bool) -> None:
    """Start a run and kill it while it reads."""
    lab.sim.do.on_vddk("VixDiskLib_Read", action="delay", seconds=3600.0)
    lab.sim.do.vddk_calls(clear=True)
    more = ("--transport", "vddk", "--vddk-libdir", str(libdir(lab.sim)), VM)
    with start(lab, *more) as process:
        lab.sim.do.wait_vddk("VixDiskLib_Read")
        doomed = [process.pid, *(_descendants(process.pid) if with_its_children else ())]
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_the_hold_of_a_killed_run_is_ended_by_its_own_process(vddk: Lab) -> None:
    killed(vddk, with_its_children=False)
    with vddk.sim.world.changed:
        machine = vddk.sim.do.find_vm(VM)
        ended = vddk.sim.world.changed.wait_for(lambda: not machine.relocation_disabled_by, 30)

    assert ended
    vddk.sim.do.reset_knobs()
    vddk.sim.do.advance(3600.0)
    recovers(vddk)


def test_the_hold_of_a_killed_run_is_ended_by_the_next_run_with_the_library(vddk: Lab) -> None:
    killed(vddk, with_its_children=True)
    vddk.sim.do.advance(3600.0)
    (record,) = vddk.run_records()
    assert len(held_by(vddk)) == 1
    code, document, words = done(vddk, "--transport", "datastore", VM)

    assert code == 3, words
    assert "is disabled by an interrupted run" in document["points"][0]["warnings"][0]
    assert vddk.run_records() == [record]
    outcome = vddk.ingest()
    assert outcome.is_whole
    assert held_by(vddk) == []
    assert kinds(outcome.manifest)[0] == "incremental"
    vddk.assert_clean()


def test_several_vms_are_held_and_read_at_once(tmp_path: Path, certificate: Certificate) -> None:
    machines = tuple(MachineEntry(f"vm{n}", disks=(DiskEntry(size=MIB),) * 2) for n in range(3))
    with Simulator(Inventory(machines=machines), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_vddk)
        for vm in sim.do.vms():
            lab.write(5000, f"on {vm['id']}".encode() * 1000, vm=vm["id"])
        results = lab.ingest_all("vm*", jobs=3)

        assert len(results.done) == 3
        for _, outcome in results.done:
            lab.assert_true(outcome.manifest)
            assert outcome.notes == ("change tracking enabled",)
        assert [vm["relocation_disabled_by"] for vm in sim.do.vms()] == [[], [], []]
    assert children() == []


# the choice


def test_auto_takes_the_library_if_it_is_installed(lab: Lab) -> None:
    code, document, words = done(lab, "--vddk-libdir", str(libdir(lab.sim)), VM)

    assert (code, document["points"][0]["transport"]) == (0, "vddk"), words


def test_auto_records_in_the_point_why_it_took_another_one(lab: Lab, tmp_path: Path) -> None:
    lab.sim.do.set_knobs("nfc", version=2)
    code, document, _ = done(lab, "--vddk-libdir", str(tmp_path), VM)
    shown = subprocess.run(
        [*arguments(lab)[:5], "show", "--json", document["points"][0]["point"]],
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    metadata = json.loads(shown.stdout)["metadata"]

    assert (code, document["points"][0]["transport"]) == (0, "datastore")
    assert [refusal.split(":")[0] for refusal in metadata["transports_refused"]] == [
        "vddk", "nbd", "nfc",
    ]  # fmt: skip
    assert "NFC library is too old" in metadata["transports_refused"][2]
    assert "no libvixDiskLib.so of VDDK 6.5 to 9 in" in metadata["transports_refused"][0]


def test_a_library_that_does_not_load_is_refused_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libvixDiskLib.so.8").write_bytes(b"no library")
    code, document, words = done(lab, "--transport", "vddk", "--vddk-libdir", str(tmp_path), VM)

    assert code == 30
    assert document["points"] == []
    enabled, failed = words.splitlines()
    assert "change tracking enabled; this run takes no restore point" in enabled
    assert "cannot use the library" in failed


def test_a_vm_on_a_standalone_host_is_not_held(tmp_path: Path, certificate: Certificate) -> None:
    inventory = one_vm(DiskEntry(size=MIB))
    host = replace(inventory, server=replace(inventory.server, kind="esxi"))
    with Simulator(host, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_vddk)
        outcome = lab.ingest()

        assert "PrepareForAccess" not in calls_of(lab)
        assert outcome.is_whole
        lab.assert_all_true()


# where the library is, and how many reads a host gets


@pytest.mark.parametrize(
    ("names", "expected", "interface"),
    [
        (["lib64/libvixDiskLib.so.8"], "lib64/libvixDiskLib.so.8", (8, 0)),
        (["libvixDiskLib.so.7"], "libvixDiskLib.so.7", (7, 0)),
        (["lib64/libvixDiskLib.so.8.0.3"], "lib64/libvixDiskLib.so.8.0.3", (8, 0)),
        (["libvixDiskLib.so.8.0.3", "libvixDiskLib.so.8.0.10"], "libvixDiskLib.so.8.0.10", (8, 0)),
        (["libvixDiskLib.so.8.0.3", "libvixDiskLib.so.8"], "libvixDiskLib.so.8", (8, 0)),
        (["libvixDiskLib.so.6", "libvixDiskLib.so.9.0.0"], "libvixDiskLib.so.9.0.0", (9, 0)),
        (["lib64/libvixDiskLib.so.6", "libvixDiskLib.so.8"], "lib64/libvixDiskLib.so.6", (6, 5)),
        (["lib64/other", "libvixDiskLib.so.8"], "libvixDiskLib.so.8", (8, 0)),
        (["libvixDiskLib.so", "libvixDiskLib.so.5", "libvixDiskLib.so.8x"], None, None),
    ],
)
def test_the_directories_in_which_the_library_is_found(
    tmp_path: Path, names: list[str], expected: str | None, interface: tuple[int, int] | None
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    file = find_library(tmp_path)

    if expected is None or interface is None:
        assert file is None
    else:
        assert file == (tmp_path / expected, *interface)
        assert file.home == tmp_path


@pytest.mark.parametrize("folder", [".", "lib64"])
def test_a_lone_library_with_its_full_version_is_used(
    tracked: Lab, tmp_path: Path, folder: str
) -> None:
    """In a directory that has no symbolic links like those in VMware's package."""
    there = tmp_path / "vddk" / folder
    there.mkdir(parents=True)
    built = libdir(tracked.sim) / "lib64"
    shutil.copy(built / "libvixDiskLib.so.8", there / "libvixDiskLib.so.8.0.3")
    shutil.copy(built / "libvsimwire.so.1", there)
    point_at(tmp_path / "vddk", tracked.sim.host, tracked.sim.vddk_port)
    tracked.make_transport = lambda sim, session: VddkTransport(session.vddk_login(there))
    manifest = tracked.ingest().manifest

    assert manifest.metadata["transport"] == "vddk"
    tracked.assert_all_true()


def test_the_manual_names_the_versions_that_are_accepted() -> None:
    manual = (ROOT / "docs" / "vsphere.md").read_text()
    names = [f"libvixDiskLib.so.{major}" for major in _VERSIONS]

    assert f"VDDK {VERSIONS}" in manual
    assert ".".join(map(str, _VERSIONS[min(_VERSIONS)])) + f" to {max(_VERSIONS)}" == VERSIONS
    assert all(name in manual for name in names)
    assert "download" not in manual.lower().replace("ended the public download", "")


def test_reads_of_all_disks_of_a_host_share_its_buffers() -> None:
    """Readers of two disks use more threads than there are buffers; another host has its own."""
    hosts = NfcHosts(3 * MIB)
    at_work, go_on = threading.Semaphore(0), threading.Event()
    lock, now, most = threading.Lock(), 0, 0

    class Slow:
        """A reader whose reads block until released."""

        size, mode = 16 * MIB, "nbd"

        def allocated(self) -> list[Extent]:
            return [Extent(0, self.size)]

        def read(self, extent: Extent) -> bytes:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            at_work.release()
            assert go_on.wait(30)
            with lock:
                now -= 1
            return bytes(extent.length)

        def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
            copy_into(self.read(extent), parts)

        def close(self) -> None:
            pass

    readers = [NfcReader(Slow(), hosts.of("host-1")) for _ in range(2)]
    extents = [Extent(0, 512), Extent(0, MIB), Extent(0, MIB), Extent(0, 2 * MIB)] * 2
    with ThreadPoolExecutor(16) as pool:
        reads = [pool.submit(readers[n % 2].read, extent) for n, extent in enumerate(extents)]
        for _ in range(2):  # one buffer, and one or two more
            assert at_work.acquire(timeout=30)
        other = pool.submit(NfcReader(Slow(), hosts.of("host-2")).read, Extent(0, 3 * MIB))
        while not other.running():
            pass
        go_on.set()
        data = [len(read.result(30)) for read in reads]

    assert data == [extent.length for extent in extents]
    assert most <= 3 + 1  # three of this host, one of the other
    with hosts.of("host-1").held(100 * MIB):  # a request beyond the total takes all buffers
        assert hosts.of("host-1")._held == 3


def test_each_request_to_the_library_holds_a_buffer(
    tracked: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = NfcHosts(2 * MIB)
    held: list[int] = []
    read = ChildProcess.read

    def look(child: ChildProcess, start: int, count: int) -> memoryview:
        held.append(hosts.of("host-1")._held)
        return read(child, start, count)

    monkeypatch.setattr(ChildProcess, "read", look)
    tracked.make_transport = lambda sim, session: VddkTransport(
        session.vddk_login(libdir(sim)), hosts
    )
    tracked.ingest(want="full")

    assert held
    assert set(held) <= {1, 2}
    assert hosts.of("host-1")._held == 0
    tracked.assert_all_true()
