"""Exit codes and messages at a fatal signal, with and without memory left."""

import subprocess
import sys
from typing import Final

import pytest

_PROGRAM: Final = """
import os, resource, signal, sys
from cbtfs.native import exit_on_fault
exit_on_fault(b"fault\\n", 21, b"shortage\\n", 1)
if sys.argv[2] == "full":
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), used + (1 << 20)))
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""


def _die(name: str, memory: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, name, memory], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_an_abort_without_memory_is_a_shortage() -> None:
    assert _die("SIGABRT", "full") == (1, "", "shortage\n")


@pytest.mark.parametrize("name", ["SIGABRT", "SIGBUS", "SIGSEGV"])
def test_a_signal_with_memory_left_is_a_fault(name: str) -> None:
    assert _die(name, "free") == (21, "", "fault\n")


@pytest.mark.parametrize("name", ["SIGBUS", "SIGSEGV"])
def test_another_signal_is_a_fault_even_without_memory(name: str) -> None:
    assert _die(name, "full") == (21, "", "fault\n")


def test_a_message_that_is_too_long_is_refused() -> None:
    program = "from cbtfs.native import exit_on_fault\nexit_on_fault(b'', 1, bytes(513), 1)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert "OSError: [Errno 22]" in done.stderr
