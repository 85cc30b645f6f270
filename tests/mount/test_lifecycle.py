import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.docs.documents import MemberTables
from tests.make_points import BLOCK, new_repository
from tests.mount.mount_process import PROGRAM, Server, kill, serving, wait_until

pytestmark = pytest.mark.mounts


def _run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def _is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_mount(
    repository: Path, point: Manifest, tmp_path: Path, number: signal.Signals, workers: str
) -> None:
    with serving(repository, tmp_path / "mnt", f"--workers={workers}") as server:
        server.process.send_signal(number)

        assert server.wait() == 0
    assert not _is_mounted(tmp_path / "mnt")


def test_a_mount_keeps_ignored_signals_ignored_and_ends_at_sigterm(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    program = ("env", "--ignore-signal=INT,HUP", *PROGRAM)
    with serving(repository, tmp_path / "mnt", program=program) as server:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        (ignored,) = re.findall(r"^SigIgn:\t(.*)$", status, re.M)
        for number in (signal.SIGINT, signal.SIGHUP):
            assert int(ignored, 16) & 1 << number - 1
        server.process.send_signal(signal.SIGTERM)

        assert server.wait() == 0


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"], [*PROGRAM, "umount"]])
def test_an_external_unmount_ends_the_mount(
    repository: Path, point: Manifest, tmp_path: Path, command: list[str]
) -> None:
    with serving(repository, tmp_path / "mnt") as server:
        subprocess.run([*command, tmp_path / "mnt"], check=True)

        assert server.wait() == 0
        assert server.log.read() == ""


def test_a_busy_mount_survives_a_signal_and_the_log_names_the_holder(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    with serving(repository, tmp_path / "mnt") as server:
        with open(server.disk(point), "rb") as file:
            server.process.terminate()

            line = server.log.readline()
            assert f"process {os.getpid()}" in line
            assert str(server.disk(point)) in line
            assert file.read() == image
        assert server.wait() == 0


def test_a_mount_with_a_loop_device_survives_a_signal(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    with serving(repository, tmp_path / "mnt") as server:
        command = ["losetup", "--read-only", "--find", "--show", str(server.disk(point))]
        device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        try:
            server.process.terminate()

            assert device in server.log.readline()
            assert Path(device).read_bytes() == image[: len(image) // 512 * 512]
        finally:
            subprocess.run(["losetup", "-d", device], check=True)
        assert server.wait() == 0


def test_umount_of_a_busy_mount_fails_unless_it_is_lazy(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    with serving(repository, tmp_path / "mnt") as server:
        with open(server.disk(point), "rb", buffering=0) as file:
            refused = _run("umount", server.root)
            assert refused.returncode == 40
            assert f"process {os.getpid()}" in refused.stderr

            assert _run("umount", "--lazy", server.root).returncode == 0
            assert not _is_mounted(server.root)
            assert file.read() == image
        assert server.wait() == 0


def test_a_mount_works_after_sigkill_of_the_previous_one(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    with serving(repository, tmp_path / "mnt") as first:
        first.process.kill()
        first.wait()
        assert wait_until(lambda: _is_dead(first.root))

        with serving(repository, tmp_path / "mnt") as second:
            assert second.disk(point).read_bytes() == image
    assert second.wait() == 0


def _is_dead(path: Path) -> bool:
    try:
        os.listdir(path)
    except OSError as exc:
        return "not connected" in str(exc)
    return False


def test_a_killed_worker_is_replaced_while_others_answer(
    mounted: Server, point: Manifest, image: bytearray
) -> None:
    fd = os.open(mounted.disk(point), os.O_RDONLY | os.O_DIRECT)
    failures = 0
    before = mounted.workers()
    for round_ in range(200):
        if round_ == 100:
            kill(min(before))
        try:
            assert (
                os.pread(fd, 8 * BLOCK, round_ % 80 * BLOCK)
                == (image[round_ % 80 * BLOCK :][: 8 * BLOCK])
            )
        except OSError:
            failures += 1
    os.close(fd)

    assert failures <= 1
    assert "SIGKILL" in mounted.log.readline()
    assert wait_until(lambda: len(mounted.workers()) == len(before))
    assert mounted.disk(point).read_bytes() == image


def test_repeated_worker_deaths_end_the_mount_with_the_reason(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    with serving(repository, tmp_path / "mnt", "--workers=1") as server:
        for _ in range(5):
            assert wait_until(lambda: len(server.workers()) == 1)
            kill(server.workers().pop())
            assert "SIGKILL" in server.log.readline()

        assert server.wait() == 40
        assert _is_dead(server.root)


def test_a_catalog_truncated_under_a_mount_is_repaired(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    with serving(repository, tmp_path / "mnt", "--workers=1") as server:
        os.truncate(repository / "catalog" / "data.mdb", 8192)
        kill(server.workers().pop())
        assert "SIGKILL" in server.log.readline()

        assert server.disk(point).read_bytes() == image
    assert server.wait() == 0


def test_a_background_mount_returns_when_the_mount_answers(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    mountpoint, log = tmp_path / "my mount", tmp_path / "state" / "log"
    mountpoint.mkdir()

    started = _run(f"--repo={repository}", "mount", f"--log-file={log}", mountpoint)

    assert (started.returncode, started.stderr) == (0, "")
    assert started.stdout == (
        f"{repository} is mounted on {mountpoint}: 1 restore point of 1 VM; unmount it with: "
        f"cbtfs umount '{mountpoint}'\n"
    )
    assert (mountpoint / "vm" / point.name / "disk.raw").read_bytes() == image
    assert _run("umount", mountpoint).returncode == 0
    assert not any(mountpoint.iterdir())
    assert log.read_text() == ""


def test_documents_of_mount_and_umount_are_those_of_the_tables(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "mnt").mkdir()
    log = f"--log-file={tmp_path / 'log'}"
    tables = MemberTables()

    mounted = _run(f"--repo={repository}", "mount", log, "--workers=1", tmp_path / "mnt", "--json")
    ended = _run("umount", tmp_path / "mnt", "--json")

    tables.compare("mount", json.loads(mounted.stdout))
    tables.compare("umount", json.loads(ended.stdout))
    assert tables.problems == []
    assert {row[0] for row in tables.never_printed()}.isdisjoint({"mount", "umount"})


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "folder"])
def test_a_log_that_is_not_a_regular_file_is_refused(
    repository: Path, tmp_path: Path, kind: str
) -> None:
    mountpoint, log, outside = (tmp_path / name for name in ("mnt", "log", "outside"))
    mountpoint.mkdir()
    if kind == "link":
        outside.write_text("precious")
    if "link" in kind:
        log.symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()

    failed = _run(f"--repo={repository}", "mount", f"--log-file={log}", mountpoint)

    assert failed.returncode == 40
    assert re.fullmatch(r"cbtfs: cannot write .*/log: .*; name a --log-file\n", failed.stderr)
    assert outside.exists() == (kind == "link")


@pytest.mark.parametrize("options", [["--foreground"], ["--log-file=/dev/null"]])
def test_the_user_sees_why_a_mount_does_not_start(tmp_path: Path, options: list[str]) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()

    failed = _run(f"--repo={tmp_path / 'nothing'}", "mount", *options, mountpoint)

    assert failed.returncode == 10
    assert re.fullmatch(r"cbtfs: no repository at .*\n", failed.stderr)


def test_a_damaged_catalog_is_repaired_before_the_mount(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    os.truncate(repository / "catalog" / "data.mdb", 8192)

    with serving(repository, tmp_path / "mnt") as server:
        assert server.disk(point).read_bytes() == image


def test_unsuitable_mount_points_are_refused(
    repository: Path, point: Manifest, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    other = new_repository(tmp_path / "other")

    with serving(repository, tmp_path / "mnt") as server:
        unsuitable = {
            repository: "contain each other",
            repository / "packs": "contain each other",
            tmp_path: "contain each other",
            full: "not empty",
            full / "file": "Not a directory",
            tmp_path / "missing": "no such directory",
        }
        for path, reason in unsuitable.items():
            failed = _run(f"--repo={repository}", "mount", "--foreground", path)
            assert (failed.returncode, reason in failed.stderr) == (40, True), failed.stderr

        nested = {server.root: "already", server.folder(point): "inside a mount"}
        for path, reason in nested.items():
            failed = _run(f"--repo={other}", "mount", "--foreground", path)
            assert (failed.returncode, reason in failed.stderr) == (40, True), failed.stderr
