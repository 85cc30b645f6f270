"""`cbtfs prove`: levels, their records, and that nothing stays behind."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from cbtfs.cli.report.metrics import Gauges
from cbtfs.cli.report.vm_status import status_of
from cbtfs.core.exposition import render
from cbtfs.core.ids import PointId
from cbtfs.core.moment import parse_moment
from cbtfs.listing import points
from cbtfs.prove.tool import find_tool
from cbtfs.store.repository import reading, writing
from tests.cli.fixtures import folder, run
from tests.cli.run_cbtfs import Run
from tests.docs.documents import MemberTables
from tests.guest import make_disk
from tests.make_points import BLOCK, SIGNALS, add_point, new_repository
from tests.mount.mount_process import corrupt
from tests.prove.images import (
    make_broken_ext4,
    make_dirty_ext4,
    make_dirty_xfs,
    make_ext4,
    make_fat,
    with_damaged_gpt,
    without_superblock,
)
from tests.qemu.processes import UNPRIVILEGED, name_of, status, using

__all__ = ["folder", "run"]  # fixtures
pytestmark = pytest.mark.mounts

EXPECTED: Final[dict[str, tuple[int, str | None, str | None]]] = {
    "four": (3, None, None),
    "dirty": (3, None, None),
    "fat": (3, None, None),
    "broken": (2, "level 3: root: ext4: e2fsck: ", None),
    "headless": (1, "level 2: root: ext4: the primary superblock is damaged", None),
    "table": (1, "level 2: root: the primary GPT is damaged; its backup is used", None),
    "strange": (2, None, "level 3: the point has no file system that is known"),
}
"""Level, failure and obstacle by VM."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository", 64 << 10)


def _disks(folder: Path) -> dict[str, Path]:
    make_disk(folder / "four")
    (folder / "strange").write_bytes(b"\xa5" * (1 << 20))
    return {
        "four": folder / "four",
        "dirty": make_dirty_ext4(folder / "dirty"),
        "fat": make_fat(folder / "fat", is_dirty=True),
        "broken": make_broken_ext4(folder / "broken"),
        "headless": without_superblock(folder / "headless"),
        "table": with_damaged_gpt(folder / "table"),
        "strange": folder / "strange",
    }


def test_each_disk_reaches_its_level_and_the_record_says_so(
    run: Run, repository: Path, folder: Path, tmp_path: Path
) -> None:
    for vm, disk in _disks(tmp_path).items():
        assert run("ingest", "image", f"--vm={vm}", "--disk=root", disk).code == 0
    assert run("show", "four@proven").code == 13

    done = run("prove", "*", "--json")

    assert done.code == 3
    assert os.listdir(folder) == []
    results = {item["vm"]: item for item in done.document["proven"]}
    assert results.keys() == EXPECTED.keys()
    for vm, (level, failure, obstacle) in EXPECTED.items():
        proof = results[vm]["proof"]
        assert proof["level"] == level, proof
        assert str(proof["failure"]).startswith(str(failure)), proof
        assert str(proof["obstacle"]).startswith(str(obstacle)), proof
        assert results[vm]["passed"] is (level == 3)
    kinds = [part["text"] for part in results["four"]["parts"] if part["level"] == 3]
    assert kinds == ["ext4", "xfs", "btrfs", "ntfs"]
    recovered = [part["text"] for vm in ("dirty", "fat") for part in results[vm]["parts"]]
    assert recovered[1::2] == ["ext4 after a recovery", "vfat after a recovery"]
    _compare_with_the_manual(run, done.document)
    assert run("show", "four@proven", "--json").document["proof"]["level"] == 3
    assert run("show", "broken@proven").code == 13
    listed = {p["vm"]: p for p in run("list", "--json").document["points"]}
    assert {vm: listed[vm]["proof_level"] for vm in EXPECTED} == {
        vm: level for vm, (level, *_) in EXPECTED.items()
    }
    assert all(point["state"] == [] for point in listed.values())
    assert "L2 failed" in run("list").out
    text = run("show", "broken").out
    assert "proof      level 2, " in text
    assert "  failed   level 3: root: ext4: e2fsck: " in text
    _compare_metrics(repository)


@pytest.mark.limit(1200)
def test_the_log_of_an_xfs_is_recovered(run: Run, folder: Path, tmp_path: Path) -> None:
    disk = make_dirty_xfs(tmp_path / "disk")
    assert run("ingest", "image", "--vm=vm", "--disk=root", disk).code == 0
    # The recovery boots a guest of libguestfs: CBTFS_BOOTS=all.
    level = 3 if os.environ.get("CBTFS_BOOTS") == "all" else 2

    done = run("prove", "vm", f"--level={level}", "--json")

    assert done.code == 0, done.document
    parts = [part["text"] for part in done.document["proven"][0]["parts"]]
    assert parts == ["xfs, to be recovered", "xfs after a recovery"][: level - 1]
    restored = tmp_path / "restored"
    assert run("restore", "vm", "root", restored, "-q").code == 0
    subprocess.run(["cmp", disk, restored], check=True)
    assert os.listdir(folder) == []


@pytest.mark.limit(600)
def test_a_kill_while_an_xfs_is_recovered_leaves_no_guest_no_mount_and_no_file(
    run: Run, repository: Path, folder: Path, tmp_path: Path
) -> None:
    disk = make_dirty_xfs(tmp_path / "disk")
    assert run("ingest", "image", "--vm=vm", "--disk=root", disk).code == 0
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", "prove", "vm"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while not (found := [socket for pid in using(folder) if (socket := _socket_of_guest(pid))]):
            assert child.poll() is None
        tools = [pid for pid in using(folder) if name_of(pid) in ("guestfish", "qemu-system-x86")]
        assert {name_of(pid) for pid in tools} == {"guestfish", "qemu-system-x86"}
        for pid in tools:
            assert all(line in status(pid) for line in UNPRIVILEGED)
        child.send_signal(signal.SIGKILL)
        child.wait()

    while (
        str(folder) in Path("/proc/mounts").read_text()
        or using(folder)
        or os.listdir(folder)
        or found[0].exists()
    ):
        pass


def _socket_of_guest(pid: int) -> Path | None:
    """Return the directory of the socket of a QEMU with a volume; libguestfs also starts others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return None
    match = re.search(r"=(/tmp/cbtfs-prove-[^/]+)/.*/guestfsd.sock", words)
    return None if match is None else Path(match[1])


def _compare_with_the_manual(run: Run, document: dict[str, Any]) -> None:
    tables = MemberTables()
    tables.compare("prove", document)
    tables.compare("prove", run("prove", "--due", "--budget=0", "--json").document)
    assert tables.problems == []
    assert {path for name, path in tables.never_printed() if name == "prove"} == {
        *("failed[].point", "failed[].vm", "failed[].time", "failed[].name"),
        *("failed[].exit", "failed[].error"),
    }


def _compare_metrics(repository: Path) -> None:
    gauges, expected = Gauges("run"), dict[str, float]()
    with reading(repository) as opened, opened.catalog.view() as view:
        for vm in view.vms().values():
            if vm.name not in ("four", "table"):
                continue
            backup_status = status_of(view, vm, vm.name)
            gauges.add_status(backup_status)
            (point,) = points(view, vm.id)
            proof = point.state.proof
            assert proof is not None
            assert proof.restore_milliseconds is not None
            labels = f'{{run="run",vm="{vm.name}",uuid="{backup_status.uuid}"}}'
            expected |= {
                f"cbtfs_vm_proof_level{labels}": EXPECTED[vm.name][0],
                f"cbtfs_vm_proof_timestamp_seconds{labels}": parse_moment(
                    proof.attempted
                ).timestamp(),
                f"cbtfs_vm_restore_seconds{labels}": proof.restore_milliseconds / 1000,
            }
    lines = [line.rpartition(" ") for line in render(gauges.all()).splitlines()]
    found = {name: float(value) for name, _, value in lines if name in expected}
    assert found == expected


def test_corrupt_data_is_a_failed_proof_and_not_a_damaged_point(run: Run, repository: Path) -> None:
    add_point(repository, {"d": b"x" * BLOCK})
    corrupt(repository, (b"x" * BLOCK).ljust(64 << 10, b"\0"))

    done = run("prove", "vm", "--level=2", "--json")

    assert done.code == 3
    (item,) = done.document["proven"]
    assert (item["proof"]["level"], item["passed"]) == (0, False)
    assert item["proof"]["failure"].startswith("level 1: disk d: ")
    (point,) = run("list", "--json").document["points"]
    assert (point["state"], point["proof_level"]) == ([], 0)


def test_a_verification_by_check_passes_level_1(run: Run, repository: Path) -> None:
    add_point(repository, {"d": b"x" * BLOCK})
    assert run("check", "--read-data").code == 0

    recent = run("prove", "vm", "--level=1", "--json").document["proven"][0]["proof"]
    again = run("prove", "vm", "--level=1", "--checked-within=0", "--json")

    assert (recent["level"], recent["restore_seconds"]) == (1, None)
    assert again.document["proven"][0]["proof"]["restore_seconds"] is not None


def test_a_missing_program_is_no_pass_and_keeps_an_earlier_proof(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_ext4(tmp_path / "disk")
    assert run("ingest", "image", "--vm=vm", "--disk=root", disk).code == 0
    assert run("prove", "vm", "-q").code == 0
    first = run("show", "vm", "--json").document["proof"]

    monkeypatch.setattr("cbtfs.prove.fsck.find_tool", _none)
    done = run("prove", "vm")

    assert done.code == 3
    assert "root: the program no-such-e2fsck is missing: install the package e2fsprogs" in done.err
    later = run("show", "vm", "--json").document["proof"]
    assert later["level"] == first["level"] == 3
    assert (first["obstacle"], "e2fsck" in later["obstacle"]) == (None, True)


def _none(name: str, package: str) -> str:
    return find_tool(f"no-such-{name}", package)


def test_due_takes_the_newest_good_point_of_each_vm_and_the_oldest_proof_first(
    run: Run, repository: Path
) -> None:
    points = {vm: add_point(repository, {"d": b"x" * BLOCK}, vm=vm) for vm in ("a", "b", "c")}
    newest = add_point(repository, {"d": b"y" * BLOCK}, vm="b")
    for vm in ("b", "a"):
        assert run("prove", vm, "--level=0").code == 0
    _date(repository, newest.point, "2026-01-01T00:00:00Z")

    done = run("prove", "--due", "--level=0", "--json")

    assert done.code == 0
    order = [item["point"] for item in done.document["proven"]]
    assert order == [points["c"].point, newest.point, points["a"].point]
    assert run("prove").code == run("prove", "a", "--due").code == 2
    none = run("prove", "--due", "--budget=0")
    assert (none.code, none.out) == (0, "")
    assert none.err == "cbtfs: the budget is spent: 3 points wait for the next run\n"


def test_several_jobs_record_all_points_and_the_budget_leaves_the_rest(
    run: Run, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [add_point(repository, {"d": b"x" * BLOCK}, vm=vm).point for vm in "abcde"]
    seconds = iter([0, 0, 30, 3600])  # at the start, and before each pair
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("cbtfs.cli.commands.prove.time", clock)

    done = run("prove", "--due", "--budget=1h", "--jobs=2", "--level=1", "--json")

    assert done.code == 0, done.err
    assert [item["point"] for item in done.document["proven"]] == ids[:4]
    assert [item["point"] for item in done.document["waiting"]] == ids[4:]
    levels = {item["vm"]: item["proof_level"] for item in run("list", "--json").document["points"]}
    assert levels == {**dict.fromkeys("abcd", 1), "e": None}


def _date(repository: Path, point: str, time: str) -> None:
    with writing(repository) as opened:
        state = opened.points.load_state(PointId(point))[0]
        assert state.proof is not None
        opened.put_states([replace(state, proof=replace(state.proof, attempted=time))])


def test_a_result_that_cannot_be_recorded_is_reported(run: Run, repository: Path) -> None:
    add_point(repository, {"d": b"x" * BLOCK})
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(repository)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        holder.stdout.readline()
        done = run("prove", "vm", "--level=0")
        holder.stdin.close()

    assert done.code == 3
    assert "cannot record the result: the repository is locked" in done.err
    with writing(repository) as opened:
        assert all(opened.points.load_state(p)[0].proof is None for p in opened.points.ids())


_HOLD: Final = """\
import sys
from pathlib import Path
from cbtfs.store.repository import writing
with writing(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.mark.limit(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_no_mount_and_no_process(
    run: Run, repository: Path, folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    disk = make_dirty_ext4(tmp_path / "disk")
    assert run("ingest", "image", "--vm=vm", "--disk=root", disk).code == 0
    program = tmp_path / "bin" / "e2fsck"
    program.parent.mkdir(mode=0o755)
    program.write_text('#!/bin/sh\nfor file; do :; done; exec tail -f "$file"\n')
    program.chmod(0o755)
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", "prove", "vm"]
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as child:
        while not (tools := [pid for pid in using(folder) if name_of(pid) == "tail"]):
            assert child.poll() is None
        assert all(line in status(tools[0]) for line in UNPRIVILEGED)
        assert str(folder) in Path("/proc/mounts").read_text()
        child.send_signal(number)
        child.wait()

    assert child.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert os.listdir(folder) == []
    while (
        str(folder) in Path("/proc/mounts").read_text()
        or list(folder.glob("cbtfs-prove-*"))
        or Path(f"/proc/{tools[0]}").exists()
        or using(folder)
    ):
        pass
