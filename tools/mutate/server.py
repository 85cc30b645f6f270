"""A server that runs pytest on request, each time in a child with its own namespaces.

The child inherits the loaded libraries but no module of cbtfs, so it loads the current code.
Requests and answers are lines of JSON on standard input and output.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

TIMED_OUT: Final = 124
"""Exit code of a run that exceeded its time limit."""
_NOT_SET_UP: Final = 99

_LIBRARIES: Final = (
    "_pytest.config", "_pytest.assertion.rewrite", "_pytest.python", "_pytest.junitxml", "pytest",
    "hypothesis.strategies", "hypothesis.internal.conjecture.engine", "lmdb", "blake3",
    "zstandard", "trio", "pyfuse3", "pyVmomi", "pyVim.connect", "typer", "rich.table",
    "asyncio", "http.server", "ssl", "subprocess", "tempfile", "unittest.mock",
)  # fmt: skip
_NEW_MOUNTS, _NEW_PIDS = 0x00020000, 0x20000000  # sched.h
_PRIVATE: Final = (1 << 18) | (1 << 14)  # sys/mount.h: MS_PRIVATE | MS_REC
_SET_DEATH_SIGNAL: Final = 1  # sys/prctl.h
_POLL_SECONDS: Final = 0.02
_libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve until standard input ends."""
    for name in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        code = _run(
            request["arguments"], request["seconds"], request["output"], request["memory_bytes"]
        )
        answers.write(f"{code}\n")
        answers.flush()


def _run(arguments: Sequence[str], seconds: float, output: str, memory_bytes: int) -> int:
    """Run pytest with *arguments* and end all its processes; return its exit code."""
    child = os.fork()
    if child == 0:
        _isolate(arguments, output, memory_bytes)
    deadline = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return TIMED_OUT
        time.sleep(_POLL_SECONDS)


def _isolate(arguments: Sequence[str], output: str, memory_bytes: int) -> NoReturn:
    """Start the first process of new namespaces, which ends when this child ends."""
    code = _NOT_SET_UP
    try:
        _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        os.setsid()
        _checked(_libc.unshare(_NEW_MOUNTS | _NEW_PIDS))
        first = os.fork()
        if first == 0:
            _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
            _first(arguments, output, memory_bytes)
        code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _first(arguments: Sequence[str], output: str, memory_bytes: int) -> NoReturn:
    """Mount private file systems, start the tests, and reap orphans until the tests end.

    This runs as process 1 of its namespace.
    """
    code = _NOT_SET_UP
    try:
        _checked(_libc.mount(b"none", b"/", None, _PRIVATE, None))
        _checked(_libc.mount(b"proc", b"/proc", b"proc", 0, None))
        scratch = os.environ["TMPDIR"].encode()
        _checked(_libc.mount(b"cbtfs-mutate", scratch, b"tmpfs", 0, b"size=6g"))
        tests = os.fork()
        if tests == 0:
            _test(arguments, output, memory_bytes)
        pid = 0
        while pid != tests:
            pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _test(arguments: Sequence[str], output: str, memory_bytes: int) -> NoReturn:
    code = _NOT_SET_UP
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (file, 1), (file, 2)):
            os.dup2(source, target)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        import pytest

        code = int(pytest.main(list(arguments)))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
