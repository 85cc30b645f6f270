"""Crashes of the process of VMware's library are reported by signal, however the stream ends."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.source.transport.vddk import process
from cbtfs.source.transport.vddk.process import ChildGone, ChildProcess

UNREAD = "stream.recv(1, socket.MSG_PEEK)"
HALF_A_FRAME = "stream.recv(1 << 16), stream.send(b'abc')"
AT_ONCE = "stream.recv(1 << 16)"


def crashing(how: str, number: str) -> "tuple[socket.socket, subprocess.Popen[bytes]]":
    """Start a child that leaves the stream in a given state and dies of a signal."""
    ours, theirs = socket.socketpair()
    program = (
        "import os, resource, signal, socket\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"stream = socket.socket(fileno={theirs.fileno()})\n{how}\n"
        f"signal.signal(signal.{number}, signal.SIG_DFL)\n"
        f"os.kill(os.getpid(), signal.{number})\n"
    )
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", program],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
        )
    return ours, child


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGABRT"])
@pytest.mark.parametrize("how", [UNREAD, HALF_A_FRAME, AT_ONCE])
def test_a_crash_is_reported_as_its_signal(
    how: str, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_started", lambda libdir: crashing(how, number))
    child = ChildProcess(Path("/nowhere"), 20.0)
    try:
        with pytest.raises(ChildGone, match=rf"VMware's library crashed \({number}\)"):
            child.call("open")
        with pytest.raises(ChildGone, match=rf"crashed \({number}\)"):
            child.read(0, 8)
    finally:
        child.end()
