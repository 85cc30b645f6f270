"""Run a user's command on the files of a point; nothing that it starts outlives it.

The command runs below a guard, a small interpreter. The guard adopts processes that the command
leaves behind, and kills all its descendants when the command ends, when this process asks it to, or
when the kernel reports the end of this process. A process that stayed would keep a file of the
mount open, and with it the mount.
"""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs import process

_STDERR: Final = 2
DISK: Final = "{}"
POINT: Final = "{point}"
FILES: Final = "{files}"
OF_POINT: Final = (DISK, POINT, FILES)
"""Paths in the mount."""
SERIAL: Final = "{serial}"
AGENT: Final = "{agent}"
QMP: Final = "{qmp}"
OF_GUEST: Final = (SERIAL, AGENT, QMP)
"""Sockets of a guest that was booted."""
_PLACEHOLDER: Final = re.compile(r"\{(?:point|files|serial|agent|qmp)?\}")
_SECRET: Final = re.compile(r"CBTFS_\w*PASSWORD\Z")
_GUARD: Final = """\
import ctypes, os, signal
libc = ctypes.CDLL(None)

def stop(*_):
    raise SystemExit(143)

def descendants():
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/stat', 'rb') as file:
                if int(file.read().rpartition(b')')[2].split()[1]) == os.getpid():
                    yield int(name)
        except OSError:
            pass

def end_all():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    while True:
        for pid in descendants():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return

parent = int(sys.argv[1])
was_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, stop)
if not was_ignored:
    signal.signal(signal.SIGINT, lambda *_: None)
libc.prctl(36, 1)
libc.prctl(1, signal.SIGTERM)
if os.getppid() != parent:
    raise SystemExit(143)
try:
    child = os.fork()
    if child == 0:
        for number in (signal.SIGTERM, signal.SIGHUP) + (() if was_ignored else (signal.SIGINT,)):
            signal.signal(number, signal.SIG_DFL)
        libc.prctl(1, signal.SIGKILL)
        code = 126
        try:
            os.execvp(sys.argv[2], sys.argv[2:])
        except FileNotFoundError:
            code = 127
        except OSError as exc:
            os.write(2, f'cbtfs: cannot run {sys.argv[2]!a}: {exc.strerror}\\n'.encode())
        finally:
            os._exit(code)
    pid, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    raise SystemExit(code if code >= 0 else 128 - code)
finally:
    end_all()
"""
"""Numbers of linux/prctl.h: 1 is PR_SET_PDEATHSIG, 36 is PR_SET_CHILD_SUBREAPER."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The end of a run."""

    code: int
    """Exit code as a shell reports it: 128 and more for a signal."""
    seconds: float


def uses(command: Sequence[str], placeholder: str) -> bool:
    """Return whether a word of *command* has *placeholder*."""
    return any(match == placeholder for word in command for match in _PLACEHOLDER.findall(word))


def filled(command: Sequence[str], paths: Mapping[str, Path]) -> list[str]:
    """Return *command* with *paths* in place of their placeholders; others stay."""
    return [
        _PLACEHOLDER.sub(lambda match: str(paths.get(match[0], match[0])), word) for word in command
    ]


def run(command: Sequence[str], variables: Mapping[str, str]) -> Ran:
    """Run *command*, and end every process that it leaves behind.

    Its output goes to standard error. It has the user's environment with *variables* and without
    passwords of cbtfs, and no standard input.
    """
    sys.stderr.flush()
    started = time.monotonic()
    environment = {**_environment(os.environ), **variables}
    guarded = process.interpreter(_GUARD, str(os.getpid()), *command)
    with process.start(guarded, stdout=_STDERR, env=environment) as guard:
        try:
            code = guard.wait()
        except BaseException:
            guard.terminate()
            raise
    return Ran(code if code >= 0 else 128 - code, time.monotonic() - started)


def _environment(present: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in present.items() if not _SECRET.match(name)}
