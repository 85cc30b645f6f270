"""`cbtfs prove --level 4`: each way in which a guest can end has its own verdict."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.qemu.guest import running_guest
from tests.cli.run_cbtfs import Run, runner
from tests.make_points import SIGNALS, new_repository
from tests.prove.debian import START, add_guest, make_root, make_small, make_variants
from tests.prove.images import make_bootable, overwrite, run
from tests.qemu.processes import UNPRIVILEGED, name_of, status, using

pytestmark = pytest.mark.mounts

TEXTS: Final = {
    "prompt": "Debian GNU/Linux 12 web01 ttyS0\r\n\r\nweb01 login: ",
    "panic": "[1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n",
    "emergency": "ALERT! /dev/sdz1 does not exist. Dropping to a shell!\r\n",
    "stuck": "Loading...\r\n",
}
"""Output of the guest on its serial port, by verdict; then it does nothing."""
SHORT: Final = ("prompt", "panic", "no-boot")
"""The verdicts of a short run; CBTFS_BOOTS=all reaches every verdict."""
REASONS: Final = {
    "prompt": "the serial port shows the prompt",
    "panic": "Kernel panic - not syncing: VFS: Unable to mount root fs",
    "emergency": "ALERT! /dev/sdz1 does not exist. Dropping to a shell!",
    "stuck": "no agent or prompt within 40 s",
    "no-boot": "and started nothing",
}

NO_INIT: Final = "No working init found."
IS_CAMPAIGN: Final = os.environ.get("CBTFS_BOOTS") == "all"
TALK: Final = """\
#!/usr/bin/python3
import socket, sys
serial = socket.socket(socket.AF_UNIX)
serial.settimeout(240)
serial.connect(sys.argv[1])
for line, expected in DIALOG:
    serial.sendall(line + b"\\n")
    text = b""
    while expected not in text:
        text += serial.recv(4096)
"""
PROMPT: Final = ((b"", b"login: "),)
LOG_IN: Final = (*PROMPT, (b"root", b"# "), (b"cat /etc/debian_version", b"12."))


def _script(path: Path, dialog: tuple[tuple[bytes, bytes], ...]) -> Path:
    """Make a program that has a dialog with a guest on its serial port."""
    path.write_text(TALK.replace("DIALOG", repr(dialog)))
    path.chmod(0o755)
    return path


def test_each_end_of_a_boot_has_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("cbtfs.prove.observe.QUIET_SECONDS", 3.0)
    run_cbtfs: Run = runner(new_repository(tmp_path / "repository", 64 << 10), capsys)
    verdicts = tuple(REASONS) if IS_CAMPAIGN else SHORT
    for vm in verdicts:
        disk = make_bootable(tmp_path / vm, TEXTS.get(vm))
        assert run_cbtfs("ingest", "image", f"--vm={vm}", "--disk=root", disk).code == 0
    evidence = f"--evidence={tmp_path / 'evidence'}"

    timeout = "--boot-timeout=40" if "stuck" in verdicts else "--boot-timeout=120"
    due = ("--due", "--budget=1h", "--jobs=2")
    done = run_cbtfs("prove", *due, "--level=4", timeout, evidence, "--json")

    assert done.code == 3, done.err
    assert os.listdir(folder) == []
    for item in done.document["proven"]:
        vm, proof = item["vm"], item["proof"]
        assert proof["verdict"] == vm, proof
        assert item["passed"] is (vm == "prompt")
        assert proof["level"] == (4 if vm == "prompt" else 3)
        assert REASONS[vm] in item["parts"][-1]["text"]
        assert (proof["failure"] is None) is (vm == "prompt")
        log = tmp_path / "evidence" / f"{item['point']}.log"
        assert log.read_text() == TEXTS.get(vm, "").replace("\r", "")
        assert log.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        restored = tmp_path / f"{vm}.restored"
        assert run_cbtfs("restore", vm, "root", restored, "-q").code == 0
        assert restored.read_bytes() == (tmp_path / vm).read_bytes()
    assert len(done.document["proven"]) == len(verdicts)


def test_options_of_a_boot_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cbtfs: Run = runner(new_repository(tmp_path / "repository"), capsys)
    for option in (
        *("--min-verdict=stuck", "--min-verdict=script", "--prompt-re=(", "--script=/etc/passwd"),
        f"--evidence={tmp_path / 'repository'}",
    ):
        assert run_cbtfs("prove", "--due", option).code == 2


def _defective(folder: Path) -> dict[str, Path]:
    """Make a whole Debian, and variants of it by verdict; `damaged` fails before a boot."""
    disks = make_variants(make_root(folder), folder)
    no_boot, damaged = (folder / name for name in ("no-boot", "damaged"))
    for path in (no_boot, damaged):
        run("cp", "--sparse=always", disks["debian"], path)
    overwrite(no_boot, 0, b"\xcd\x18")
    overwrite(damaged, START + 1024, bytes(1024))
    return {**disks, "no-boot": no_boot, "damaged": damaged}


def _digest(repository: Path) -> str:
    """Return a digest of all data and records of points, without their states."""
    digest = hashlib.sha256()
    for path in sorted([*repository.glob("packs/*/*"), *repository.glob("points/*.json")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.limit(7200 if IS_CAMPAIGN else 300)
def test_a_debian_boots_from_a_point_and_its_defects_have_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    repository = new_repository(tmp_path / "repository", 64 << 10)
    run_cbtfs: Run = runner(repository, capsys)
    talk, log_in = _script(tmp_path / "talk", PROMPT), _script(tmp_path / "log-in", LOG_IN)
    disks = {"small": make_small(tmp_path / "small")}
    tests: dict[str, tuple[str, ...]] = {
        "small": ("script", "--min-verdict=script", f"--script={talk}")
    }
    if IS_CAMPAIGN:
        disks.update(_defective(tmp_path))
        tests |= {vm: (vm, "--min-verdict=settled") for vm in disks if vm != "small"}
        tests |= {
            "debian": ("agent", "--min-verdict=agent"),
            "script": ("script", "--min-verdict=script", f"--script={log_in}"),
            "stuck": ("stuck", "--min-verdict=settled", "--boot-timeout=3m"),
            "damaged": ("", "--min-verdict=settled"),
        }
    points = {vm: add_guest(repository, vm, disk).point for vm, disk in disks.items()}
    before = _digest(repository)

    for vm, (verdict, *options) in tests.items():
        done = run_cbtfs("prove", vm, "--level=4", "--boot-timeout=12m", *options, "--json")

        (item,) = done.document["proven"]
        print(f"{vm}: {item['seconds']:.0f} s: {item['parts'][-1]['text']}", file=sys.__stderr__)
        assert (item["proof"]["verdict"] or "") == verdict, item
        passes = verdict in ("agent", "script", "prompt", "settled")
        assert (item["passed"], done.code) == (passes, 0 if passes else 3)
        if vm == "damaged":
            assert item["proof"]["level"] == 1
            assert "superblock" in item["proof"]["failure"]
            continue
        log = tmp_path / "state" / "cbtfs" / "boots" / f"{points[vm]}.log"
        assert log.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        if vm == "small":
            assert "web01 login: " in log.read_text()
    assert _digest(repository) == before


def test_the_text_of_the_screen_is_read_and_a_busy_host_gets_another_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = 0

    def counted(*arguments: Any) -> Any:
        nonlocal boots
        boots += 1
        return running_guest(*arguments)

    monkeypatch.setattr("cbtfs.prove.boot.running_guest", counted)
    monkeypatch.setattr("cbtfs.prove.boot.choose_accelerator", lambda wanted: "tcg")
    run_cbtfs: Run = runner(new_repository(tmp_path / "repository", 64 << 10), capsys)
    texts = {
        "broken": f"[ 1.00] Kernel panic - not syncing: {NO_INIT}",
        "busy": "[ 0.04] Kernel panic - not syncing: IO-APIC + timer doesn't work!",
    }
    for vm, text in texts.items():
        disk = make_bootable(tmp_path / vm, text, on_screen=True)
        assert run_cbtfs("ingest", "image", f"--vm={vm}", "--disk=root", disk).code == 0

    done = run_cbtfs("prove", "*", "--level=4", f"--evidence={tmp_path / 'boots'}", "--json")

    assert done.code == 3
    proofs = {item["vm"]: item["proof"] for item in done.document["proven"]}
    assert proofs["broken"]["verdict"] == "panic"
    assert proofs["broken"]["failure"].endswith("panic: Kernel panic - not syncing: " + NO_INIT)
    assert (proofs["busy"]["failure"], proofs["busy"]["verdict"]) == (None, None)
    assert proofs["busy"]["obstacle"].startswith("level 4: the emulation was too slow")
    assert boots == 1 + 3


def test_a_script_that_fails_after_a_prompt_of_ones_own_is_a_failure_with_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cbtfs: Run = runner(new_repository(tmp_path / "repository", 64 << 10), capsys)
    disk = make_bootable(tmp_path / "disk", "Appliance 7 is ready\r\nChoose: ")
    assert run_cbtfs("ingest", "image", "--vm=vm", "--disk=root", disk).code == 0
    script, evidence = tmp_path / "check", tmp_path / "evidence"
    script.write_text("#!/bin/sh\ntest -S $1 && test -S $2 && echo the database is empty\nexit 7\n")
    script.chmod(0o755)
    options = (f"--script={script}", r"--prompt-re=Choose: \Z", f"--evidence={evidence}")
    prove = ("prove", "vm", "--level=4", *options, "--json")

    done = run_cbtfs(*prove, "--min-verdict=script")
    lenient = run_cbtfs(*prove)

    (item,) = done.document["proven"]
    assert (done.code, item["proof"]["level"]) == (3, 3)
    assert item["proof"]["failure"] == "level 4: check exits with 7: the database is empty"
    assert len(list(evidence.glob("*.png"))) == 1
    (item,) = lenient.document["proven"]
    assert (lenient.code, item["proof"]["verdict"]) == (0, "prompt")
    assert item["parts"][-1]["text"].endswith("shows the prompt; check exits with 7")


@pytest.mark.limit(120)
def test_a_kill_during_two_boots_leaves_no_guest_no_mount_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    repository = new_repository(tmp_path / "repository", 64 << 10)
    run_cbtfs: Run = runner(repository, capsys)
    disk = make_bootable(tmp_path / "disk", TEXTS["stuck"])
    for vm in ("one", "two"):
        assert run_cbtfs("ingest", "image", f"--vm={vm}", "--disk=root", disk).code == 0
    due = ["prove", "--due", "--budget=30m", "--jobs=2", "--level=4"]
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", *due]
    command.append(f"--evidence={tmp_path / 'evidence'}")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while sum(log.stat().st_size > 0 for log in folder.glob("*/serial.log")) < 2:
            assert child.poll() is None
        assert str(folder) in Path("/proc/mounts").read_text()
        guests = [pid for pid in using(folder) if name_of(pid).startswith("qemu-system")]
        assert len(guests) == 2
        for pid in guests:
            assert all(line in status(pid) for line in UNPRIVILEGED)
        child.send_signal(signal.SIGKILL)
        child.wait()

    while str(folder) in Path("/proc/mounts").read_text() or using(folder) or os.listdir(folder):
        pass
