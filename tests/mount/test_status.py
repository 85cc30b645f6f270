"""The status of a running mount, for users, systemd and mount(8)."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.commands.mount_helper import arguments
from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import writing
from tests.cli.run_cbtfs import process
from tests.docs.documents import MemberTables
from tests.make_points import BLOCK, SIGNALS, add_point, new_repository
from tests.mount.mount_process import PROGRAM, Server, corrupt, kill, serving, wait_until

pytestmark = pytest.mark.mounts

UNIT = Path(__file__).parent.parent.parent / "contrib/systemd/cbtfs-mount@.service"


def status_of(server: Server) -> Any:
    done = process("status", "--json", server.root)
    assert done.code == 0, done.err
    return done.document


def test_the_status_is_a_file_in_a_hidden_directory(mounted: Server) -> None:
    folder = mounted.root / ".cbtfs"

    assert os.listdir(mounted.root) == ["vm"]
    assert os.listdir(folder) == ["status.json"]
    assert json.loads((folder / "status.json").read_bytes())["points"] == 1
    assert (folder / "status.json").stat().st_size == len((folder / "status.json").read_bytes())
    assert not (folder / "other").exists()


def test_the_command_shows_points_and_workers(
    mounted: Server, repository: Path, point: Manifest
) -> None:
    with mounted.disk(point).open("rb") as file:
        file.read()
        status = status_of(mounted)

    assert status["repository"] == str(repository)
    assert status["mountpoint"] == str(mounted.root)
    assert status["process"] == mounted.process.pid
    assert {worker["process"] for worker in status["workers"]} == mounted.workers()
    assert (status["vms"], status["points"], status["open_points"]) == (1, 1, 1)
    assert (status["errors"], status["restarts"]) == (0, 0)
    assert (status["suspect"], status["damaged"]) == ([], [])
    assert "points      1 of 1 VMs" in process("status", mounted.root).out


def test_the_status_shows_the_cached_bytes_of_the_workers(
    mounted: Server, repository: Path, point: Manifest
) -> None:
    assert [worker["cached_bytes"] for worker in status_of(mounted)["workers"]] == [0, 0]
    add_point(repository, {"disk": b"compressed " * 50_000}, vm="other")

    assert wait_until(lambda: (mounted.root / "other").exists())
    (mounted.root / "other" / "latest" / "disk.raw").read_bytes()
    # The other workers publish their sizes once a second.
    assert wait_until(lambda: _cached(mounted) > 0)
    assert _cached(mounted) <= 4 * 550_000


def _cached(server: Server) -> int:
    return sum(worker["cached_bytes"] for worker in status_of(server)["workers"])


def test_failed_reads_and_dead_workers_are_counted(
    mounted: Server, repository: Path, point: Manifest, image: bytearray
) -> None:
    corrupt(repository, image[:BLOCK])
    with pytest.raises(OSError, match="Input/output error"):
        mounted.disk(point).read_bytes()
    kill(next(iter(mounted.workers())))

    assert wait_until(lambda: status_of(mounted)["restarts"] == 1)
    assert status_of(mounted)["errors"] > 0


def test_a_dead_worker_counts_as_a_failed_read(mounted: Server) -> None:
    assert status_of(mounted)["errors"] == 0
    kill(next(iter(mounted.workers())))

    assert wait_until(lambda: status_of(mounted)["restarts"] == 1)
    assert status_of(mounted)["errors"] == 1
    assert "errors      1 reads failed" in process("status", mounted.root).out


def test_suspect_points_are_listed_by_vm_and_time(
    mounted: Server, repository: Path, image: bytearray
) -> None:
    points = [add_point(repository, {"disk": bytes(image)}, vm=vm) for vm in ("b", "a", "b")]
    with writing(repository) as opened:
        opened.put_states(
            replace(opened.points.load_state(point.point)[0], suspect="why") for point in points
        )

    assert wait_until(lambda: len(status_of(mounted)["suspect"]) == 3)
    tables = MemberTables()
    tables.compare("status", status_of(mounted))
    assert tables.problems == []
    assert {row[0] for row in tables.never_printed()}.isdisjoint({"status", "listed point"})
    order = [points[1], points[0], points[2]]
    assert [suspect["point"] for suspect in status_of(mounted)["suspect"]] == [
        p.point for p in order
    ]
    lines = process("status", mounted.root).out.splitlines()
    assert [line for line in lines if line.startswith("suspect")] == [
        f"suspect     {point.vm.name}@{point.name} (point {point.point})" for point in order
    ]


def test_a_new_point_is_counted(mounted: Server, repository: Path, image: bytearray) -> None:
    add_point(repository, {"disk": bytes(image)}, vm="other")

    assert wait_until(lambda: (status_of(mounted)["vms"], status_of(mounted)["points"]) == (2, 2))


def test_a_vm_with_the_name_of_the_status_directory_is_encoded(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repository")
    add_point(repository, {"disk": b"content"}, vm=".cbtfs")

    with serving(repository, tmp_path / "mnt") as server:
        assert os.listdir(server.root) == ["%2Ecbtfs"]
        assert status_of(server)["points"] == 1


def test_status_without_a_mount_exits_with_40(tmp_path: Path) -> None:
    assert process("status", tmp_path).code == 40


def test_status_of_a_dead_mount_exits_with_40(mounted: Server) -> None:
    for worker in [mounted.process.pid, *mounted.workers()]:
        kill(worker)
    mounted.process.wait()
    try:
        assert wait_until(lambda: process("status", mounted.root).code == 40)
    finally:
        process("umount", mounted.root)
        mounted.process.returncode = 0


def test_systemd_is_notified_of_readiness_and_of_the_end(
    repository: Path, point: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        with serving(repository, tmp_path / "mnt") as server:
            assert manager.recv(4096) == b"READY=1\nSTATUS=mounted on %s" % os.fsencode(server.root)
            with server.disk(point).open("rb"):
                server.process.send_signal(signal.SIGTERM)
                assert manager.recv(4096) == b"STOPPING=1"
                assert b"is busy: it is held by process" in manager.recv(4096)
            assert server.wait() == 0


def test_lines_to_the_journal_have_a_priority(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    corrupt(repository, image[:BLOCK])
    log, mountpoint = tmp_path / "journal", tmp_path / "mnt"
    mountpoint.mkdir()
    with log.open("wb") as journal:
        status = os.fstat(journal.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command = [*SIGNALS, *PROGRAM, f"--repo={repository}", "mount", "--foreground"]
        command.append(str(mountpoint))
        with subprocess.Popen(
            command, env=environment, stderr=journal, stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            with pytest.raises(OSError, match="Input/output error"):
                (mountpoint / "vm/latest/disk.raw").read_bytes()
            server.send_signal(signal.SIGTERM)

    assert log.read_text().startswith(f"<3>cbtfs: cannot read point {point.point}")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "cbtfs-mount@mnt-backup.service"
    program = Path(sys.executable).with_name("cbtfs")
    unit.write_text(
        UNIT.read_text().replace("=cbtfs ", f"={program} ").replace("=-cbtfs", f"=-{program}")
    )

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], check=False, capture_output=True, text=True
    )

    assert done.stderr == ""
    assert done.returncode == 0


def test_an_fstab_line_mounts_with_the_helper(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    helpers, mountpoint = tmp_path / "sbin", tmp_path / "mnt"
    helpers.mkdir()
    mountpoint.mkdir()
    helper = helpers / "mount.cbtfs"
    helper.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c "
        "'from cbtfs.cli.commands.mount_helper import run; run()' \"$@\"\n"
    )
    helper.chmod(0o755)
    options = f"defaults,nofail,x-systemd.automount,workers=1,log_file={tmp_path / 'log'}"
    (tmp_path / "fstab").write_text(f"{repository} {mountpoint} cbtfs {options} 0 0\n")
    script = f"""
set -e
mount --make-rprivate /
mount --bind {helpers} /usr/sbin
mount --bind {tmp_path}/fstab /etc/fstab
mount {mountpoint}
wc -c < {mountpoint}/vm/latest/disk.raw
mount {mountpoint} || echo code $?
umount {mountpoint}
ls {mountpoint}
"""
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        cwd=UNIT.parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [str(point.disks[0].size), "code 32", ""]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["/r", "/m"], ["--quiet", "--repo", "/r", "mount", "/m"]),
        (["/r", "/m", "-o", "rw"], ["--quiet", "--repo", "/r", "mount", "/m"]),
        (
            ["/r", "/m", "-sn", "-o", "ro,allow_other,workers=3,comment=x"],
            ["--quiet", "--repo", "/r", "mount", "/m", "--allow-other", "--workers=3"],
        ),
        (
            ["/r", "/m", "-o", "engine=auto"],
            ["--quiet", "--repo", "/r", "mount", "/m", "--engine=auto"],
        ),
    ],
)
def test_arguments_of_mount_become_a_command(given: list[str], expected: list[str]) -> None:
    assert arguments(given) == expected


@pytest.mark.parametrize("given", [[], ["/r"], ["/r", "/m", "-x"], ["/r", "/m", "-o", "subdir=x"]])
def test_unknown_arguments_of_mount_are_refused(given: list[str]) -> None:
    with pytest.raises(ValueError, match=r"usage|unknown"):
        arguments(given)
