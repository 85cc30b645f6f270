"""Programs that check file systems run in a sandbox."""

import errno
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cbtfs import process
from cbtfs.prove.confined import Confinement
from cbtfs.prove.part import Stopped, Untestable
from cbtfs.prove.tool import Ran, run_tool
from tests.qemu.processes import UNPRIVILEGED, name_of, using

pytestmark = pytest.mark.mounts


def run(
    *command: str,
    readable: Path | None = None,
    writable: Path | None = None,
    has_namespaces: bool = False,
) -> Ran:
    program = process.find_program(command[0])
    assert program is not None
    confinement = Confinement(
        [readable] if readable else [],
        [writable] if writable else [],
        has_namespaces=has_namespaces,
    )
    return run_tool([program, *command[1:]], threading.Event(), 60, confinement)


def test_only_named_files_are_accessible(tmp_path: Path) -> None:
    shown, target, hidden = (tmp_path / name for name in ("shown", "target", "hidden"))
    for path in (shown, target, hidden):
        path.write_text("content\n")

    assert run("cat", str(shown), readable=shown).output == "content\n"
    assert run("cp", str(shown), str(target), readable=shown, writable=target).code == 0
    for done in (
        run("cat", str(hidden), readable=shown),
        run("dd", f"of={shown}", "if=/dev/null", readable=shown),
        run("touch", str(tmp_path / "new")),
        run("ls", str(tmp_path), readable=shown),
        run("cat", "/etc/shadow"),
        run("cat", "/proc/1/environ"),
        run("chown", "1:1", str(target), writable=target),
    ):
        assert done.code != 0
        assert "ermi" in done.output
    assert shown.read_text() == "content\n"


def test_there_is_no_network_no_mount_no_signal_and_no_capability() -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        for command in (
            ("busybox", "nc", "127.0.0.1", "1"),
            ("mount", "-t", "tmpfs", "none", "/mnt"),
            ("unshare", "--user", "true"),
            ("kill", str(other.pid)),
        ):
            done = run(*command)

            assert done.code != 0, command
            assert "not permitted" in done.output or "ermission denied" in done.output, done.output
        assert other.poll() is None
        other.kill()
    status = run("sh", "-c", "exec cat /proc/self/status", readable=Path("/proc"))
    assert all(line in status.output for line in UNPRIVILEGED)


def test_a_program_in_namespaces_reaches_only_its_children() -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        script = f"""
            id -u; id -g; echo $$; sleep 99 & kill $! && wait $!; echo code $?
            kill {other.pid} || echo none
            exec cat /proc/self/status
            """
        done = run("sh", "-c", script, readable=Path("/proc"), has_namespaces=True)

        assert other.poll() is None
        other.kill()
    assert done.lines[:3] == ["1000", "1000", "1"]
    assert {"code 143", "none"} < set(done.lines)
    assert all(line in done.output for line in UNPRIVILEGED)
    assert run("sh", "-c", "exit 7", has_namespaces=True).code == 7
    assert run("sh", "-c", "ulimit -t 0; while :; do :; done", has_namespaces=True).code == 137


def test_a_system_without_user_namespaces_refuses_to_run_the_program() -> None:
    """A namespace whose users may not make others."""
    program = f"""
import sys, threading
sys.path[:0] = {sys.path!r}
from cbtfs.prove.confined import Confinement
from cbtfs.prove.tool import run_tool
run_tool(["/bin/true"], threading.Event(), 60, Confinement(has_namespaces=True))
"""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, sys.executable, program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.endswith("] this system refuses user namespaces\n")
    assert "Untestable: true did not run: cannot confine the program" in done.stderr


def test_processes_in_namespaces_end_with_their_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.touch()
    script = f"setsid tail -f {pids} & exec tail -f {pids}"
    stop, ended = threading.Event(), threading.Event()

    def work() -> None:
        confinement = Confinement([pids], has_namespaces=True)
        with pytest.raises(Stopped):
            run_tool(["/bin/sh", "-c", script], stop, 60, confinement)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    while [*map(name_of, using(pids))].count("tail") < 2:
        pass
    stop.set()
    thread.join()
    while using(pids):
        pass
    assert ended.is_set()


@pytest.mark.parametrize("flag", [0x10000000, 0x20000, 0x20000000, 0x40000000])
def test_there_are_no_namespaces_by_clone(flag: int) -> None:
    """Flags of clone(): NEWUSER, NEWNS, NEWPID, NEWNET. The right for the last three is missing."""
    number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    call = "exit(syscall({}, {}, 0, 0, 0, 0) < 0 ? $! + 0 : 0)"

    assert run("perl", "-e", call.format(number, flag | 17)).code == errno.EPERM
    assert run("perl", "-e", call.format(number, 17)).code == 0
    assert run("perl", "-e", call.format(435, "0")).code == errno.ENOSYS


@pytest.mark.parametrize("text", ["ulimit -v", "ulimit -c"])
def test_memory_is_limited(text: str) -> None:
    assert int(run("sh", "-c", text).output) <= 16 << 20


def test_a_program_that_cannot_start_says_nothing_about_the_point(tmp_path: Path) -> None:
    program = tmp_path / "e2fsck"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)

    with pytest.raises(Untestable, match="e2fsck did not run: cannot confine the program"):
        run_tool([program], threading.Event(), 60, Confinement())
