"""`cbtfs bisect --boot`: the command tests a guest that was booted, and nothing stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.bisect.test_bisect import add_points, folder, repository, run
from tests.cli.run_cbtfs import Run
from tests.docs.documents import MemberTables
from tests.guest import boot_code
from tests.make_points import SIGNALS
from tests.qemu.processes import using

__all__ = ["folder", "repository", "run"]  # fixtures
pytestmark = pytest.mark.mounts

LOGIN: Final = "Debian GNU/Linux 12 web01 ttyS0\r\n\r\nweb01 login: "
PANIC: Final = "[1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"
QUERY: Final = """\
import json, os, socket, sys
path, = sys.argv[1:]
assert path == os.environ["CBTFS_QMP"] and os.environ["CBTFS_VERDICT"] == "prompt"
assert os.path.exists(os.environ["CBTFS_SERIAL"]) and os.path.exists(os.environ["CBTFS_AGENT"])
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(path)
lines = monitor.makefile("rw")
lines.readline()
for command in "qmp_capabilities", "query-status":
    print(json.dumps({"execute": command}), file=lines, flush=True)
    answer = json.loads(lines.readline())["return"]
assert answer["running"], answer
with open(os.environ["DISK"], "rb") as disk:
    sys.exit(b"Broken" in disk.read(512))
"""


def _sector(text: str) -> bytes:
    """Return a disk whose boot sector prints *text* and stays."""
    code = boot_code(text, stays=True)
    assert len(code) <= 510
    return code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20)


def test_a_guest_that_does_not_boot_is_bad_and_the_command_reaches_one_that_does(
    run: Run, repository: Path, folder: Path
) -> None:
    texts = [LOGIN, LOGIN, LOGIN.replace("Debian", "Broken"), PANIC]
    points = add_points(repository, [_sector(text) for text in texts])
    script = f"DISK={{}} exec {sys.executable} -c '{QUERY}' {{qmp}}"

    boots = run("bisect", "vm", "--boot", "--json", "--", "true")
    works = run("bisect", "vm", "--boot", "--json", "--", "sh", "-c", script)

    assert boots.code == works.code == 0, boots.err + works.err
    assert boots.document["first_bad"]["point"] == points[3].point
    assert works.document["first_bad"]["point"] == points[2].point
    results = {r["point"]: (r["verdict"], r["exit"]) for r in works.document["runs"]}
    assert results[points[0].point] == ("prompt", 0)
    assert results[points[2].point] == ("prompt", 1)
    assert results[points[3].point] == ("panic", None)
    assert "guest panic: Kernel panic - not syncing: VFS: Unable to mount root fs" in works.err
    assert os.listdir(folder) == []
    tables = MemberTables()
    tables.compare("bisect", works.document)
    assert tables.problems == []


def test_a_log_is_that_of_a_boot(run: Run, repository: Path, tmp_path: Path) -> None:
    add_points(repository, [_sector(LOGIN), _sector(PANIC)])
    log = f"--log={tmp_path / 'log'}"
    assert run("bisect", "vm", "--boot", log, "--", "true").code == 0

    again = run("bisect", "vm", "--boot", log, "--json", "--", "true")

    assert [item["seconds"] for item in again.document["runs"]] == [None, None]
    assert run("bisect", "vm", "--boot", "--min-verdict=agent", log, "--", "true").code == 2
    assert run("bisect", "vm", "--", "true", "{serial}").code == 2
    panic = run("bisect", "vm", "--boot", "--good=vm@latest", "--bad=vm@latest", "--", "true")
    assert panic.code == 2


def test_the_good_end_must_boot(run: Run, repository: Path) -> None:
    add_points(repository, [_sector(PANIC), _sector(PANIC) + b"2"])

    done = run("bisect", "vm", "--boot", "--", "true")

    assert (done.code, done.out) == (1, "")
    assert "does not boot: panic: Kernel panic" in done.err.splitlines()[-1]


@pytest.mark.limit(120)
def test_a_kill_leaves_no_guest_no_image_and_no_mount(repository: Path, folder: Path) -> None:
    add_points(repository, [_sector(LOGIN), _sector(PANIC)])
    search = ["bisect", "vm", "--boot", "--", "sh", "-c", "echo {serial}; exec tail -f {}"]
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", *search]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        serial = Path(child.stderr.readline().strip())
        assert serial.is_socket(), serial
        child.send_signal(signal.SIGKILL)
        child.wait()

    while str(folder) in Path("/proc/mounts").read_text() or os.listdir(folder) or using(folder):
        pass
