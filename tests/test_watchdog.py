"""Time limits of tests: every kind of hang ends with a failure that names the test."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.mounts

_ROOT: Final = Path(__file__).parents[1]
_CONFTEST: Final = 'pytest_plugins = ["tests.watchdog.plugin"]\n'
_HEAD: Final = """
import contextlib, ctypes, os, signal, struct, subprocess, sys, threading
from pathlib import Path
import pytest

FOLDER = Path(__file__).parent
LIBC = ctypes.CDLL(None)
PAUSE = "import signal; signal.pause()"
SLEEP = [sys.executable, "-ISc", PAUSE, str(FOLDER)]  # the folder tells it from other processes

def fuse(place):
    # A file system that takes requests and answers none, served by this process itself.
    place.mkdir(exist_ok=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
    assert LIBC.mount(b"silent", os.fsencode(place), b"fuse", 0, options.encode()) == 0
    taken = threading.Event()
    def serve():
        _, _, unique = struct.unpack_from("IIQ", os.read(fd, 1 << 18))
        with contextlib.suppress(FileNotFoundError):  # unmounted before the reply
            os.write(fd, struct.pack("IiQ", 80, 0, unique) + struct.pack("II56x", 7, 31))
        while True:
            try:
                os.read(fd, 1 << 18)
            except OSError:
                return
            taken.set()
    threading.Thread(target=serve, daemon=True).start()
    return taken
"""
_HANGS: Final = """
@pytest.mark.limit(1000)
def test_before():
    pass

def test_in_python():
    while True:
        pass

def test_in_a_system_call():
    os.read(os.pipe()[0], 1)

def test_that_waits_for_a_child():
    with subprocess.Popen(SLEEP):
        pass

def test_that_waits_for_an_orphan():
    reader, writer = os.pipe()
    subprocess.run(["setsid", "sh", "-c", '"$@" &', "sh", *SLEEP], stdout=writer, check=True)
    os.close(writer)
    os.read(reader, 1)

def test_that_takes_no_notice():
    for _ in range(2):
        try:
            threading.Event().wait()
        except BaseException:
            break

@pytest.mark.mounts
def test_in_a_fuse_request():
    fuse(FOLDER / "mnt")
    os.listdir(FOLDER / "mnt")

@pytest.mark.mounts
def test_with_a_child_in_a_fuse_request():
    fuse(FOLDER / "mnt")
    subprocess.run(["ls", FOLDER / "mnt"])

@pytest.mark.mounts
def test_with_a_mount_in_another_namespace():
    child = os.fork()
    if child == 0:
        LIBC.unshare(0x20000)
        LIBC.mount(b"none", b"/", None, 0x44000, None)
        fuse(FOLDER / "mnt")
        os.listdir(FOLDER / "mnt")
    os.waitpid(child, 0)

@pytest.fixture
def slow():
    os.read(os.pipe()[0], 1)

def test_in_a_fixture(slow):
    pass

@pytest.mark.limit(1000)
def test_after():
    assert os.listdir(FOLDER / "mnt") == []
    assert str(FOLDER) not in Path("/proc/self/mountinfo").read_text()
"""


def _run(folder: Path, text: str, *options: str) -> "subprocess.CompletedProcess[str]":
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_it.py").write_text(_HEAD + text)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {_ROOT}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def _left(folder: Path) -> list[bytes]:
    """Return command lines of processes that were started below *folder*."""
    commands = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                commands.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return [line for line in commands if os.fsencode(folder) in line]


def test_each_way_to_hang_fails_the_test_and_leaves_nothing(tmp_path: Path) -> None:
    done = _run(tmp_path, _HANGS, "--limit=0.5", "--grace=4")
    hanging = [
        line.partition("(")[0].removeprefix("def ")
        for line in _HANGS.splitlines()
        if line.startswith("def test_")
    ]
    hanging = [name for name in hanging if name not in ("test_before", "test_after")]

    assert done.returncode == 1, done.stdout + done.stderr
    for name in hanging:
        assert f"test_it.py::{name} exceeded its time limit of 0.5 s" in done.stdout, done.stdout
    assert f"{len(hanging) - 1} failed, 2 passed, 1 error" in done.stdout, done.stdout
    assert "os.read(os.pipe()[0], 1)" in done.stdout, "where it hung"
    assert _left(tmp_path) == []


def test_a_test_that_cannot_be_interrupted_ends_the_run(tmp_path: Path) -> None:
    """C code holds the GIL."""
    text = """
def test_of_native_code():
    subprocess.Popen(SLEEP)
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""
    done = _run(tmp_path, text, "--limit=0.5", "--grace=0.5")

    assert done.returncode == 128 + 9
    assert "test_it.py::test_of_native_code exceeded its time limit of 0.5 s" in done.stderr
    assert _left(tmp_path) == []


def test_a_crash_names_the_test(tmp_path: Path) -> None:
    done = _run(tmp_path, "def test_crash():\n    os.kill(os.getpid(), signal.SIGKILL)\n")

    assert done.returncode == 128 + 9
    assert "killed by SIGKILL during test_it.py::test_crash" in done.stderr


def test_what_a_run_leaves_ends_with_it(tmp_path: Path) -> None:
    text = """
def test_leave():
    subprocess.run(["setsid", "sh", "-c", '"$@" &', "sh", *SLEEP], check=True)
"""
    done = _run(tmp_path, text)

    assert done.returncode == 0, done.stdout
    assert "processes that tests left running" in done.stderr
    assert _left(tmp_path) == []


def test_a_test_that_mounts_needs_the_marker(tmp_path: Path) -> None:
    ways = {
        "fuse": "fuse(FOLDER / 'mnt'); LIBC.umount2(os.fsencode(FOLDER / 'mnt'), 2)",
        "unshare": "subprocess.run(['unshare', '--mount', 'true'])",
        "bind": "subprocess.run(['mount', '--bind', '/proc', FOLDER])",
    }
    text = "".join(
        f"def test_{name}_unmarked():\n    {way}\n"
        f"@pytest.mark.mounts\ndef test_{name}_marked():\n    {way}\n"
        for name, way in ways.items()
    )
    done = _run(tmp_path, text + "def test_neither():\n    subprocess.run(['mount'])\n")

    assert done.returncode == 1
    for name in ways:
        words = f"test_it.py::test_{name}_unmarked mounts and has no marker 'mounts'"
        assert words in done.stdout, done.stdout
    assert "7 passed, 3 errors" in done.stdout, done.stdout


def test_mounts_of_a_session_are_its_own(tmp_path: Path) -> None:
    """No other process sees the mounts or keeps their file systems alive."""
    (tmp_path / "mnt").mkdir()
    table = f"/proc/{os.getpid()}/mountinfo"
    text = f"""
@pytest.mark.mounts
def test_mount():
    fuse(FOLDER / "mnt")
    assert str(FOLDER) in Path("/proc/self/mountinfo").read_text()
    assert str(FOLDER) not in Path("{table}").read_text()
"""
    done = _run(tmp_path, text)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("number", ["TERM", "INT"])
def test_a_signal_ends_a_run_and_its_children(tmp_path: Path, number: str) -> None:
    text = f"""
def test_signal():
    child = subprocess.Popen(SLEEP)
    os.kill(os.getppid() if "{number}" == "TERM" else os.getpid(), signal.SIG{number})
    child.wait()
"""
    done = _run(tmp_path, "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + text)

    assert done.returncode == (128 + 15 if number == "TERM" else 2)
    assert _left(tmp_path) == []
