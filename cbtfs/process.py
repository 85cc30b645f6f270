"""Child processes: every program and every interpreter is started by this module.

A child gets a clean environment, no standard input and, unless it is a daemon, a time limit. An
interpreter is isolated (-I -S): it imports no module from the current directory, from PYTHONPATH or
from the user's site directory, and runs no sitecustomize. Its path has the standard library first
and then the directories of this process, so it works in a virtual environment, in an editable
install and in a private directory of a distribution's package.
"""

import ctypes
import os
import resource
import selectors
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, Popen, TimeoutExpired
from typing import IO, Any, Final

import cbtfs
from cbtfs.errors import CbtfsError

__all__ = ["DEVNULL", "PIPE", "STDOUT", "CompletedProcess", "Popen", "TimeoutExpired"]

Argument = str | Path

_KEPT_VARIABLES: Final = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "XDG_STATE_HOME")
_BUCKET_VARIABLES: Final = ("AWS_", "CBTFS_STATE", "CBTFS_TIER_SIZE", "CBTFS_S3_RETRY")
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_SET_DUMPABLE: Final = 4
"""PR_SET_DUMPABLE of linux/prctl.h."""
_RUN_BOUND: Final = """\
import ctypes, os
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""PR_SET_PDEATHSIG of linux/prctl.h with SIGKILL; the setting survives the exec."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: a few safe variables, and *more*.

    Other variables are dropped: this process may have a password in its environment, and PYTHON… or
    LD_… change the code that a child runs.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {"PATH": search_path(), **kept, **more}


def repository_environment() -> dict[str, str]:
    """Return the environment of a child that opens a repository, which may be in a bucket.

    It has the variables of AWS's tools, with their secrets.
    """
    names = [name for name in os.environ if name.startswith(_BUCKET_VARIABLES)]
    return environment(**{name: os.environ[name] for name in names})


def search_path() -> str:
    """Return PATH without relative directories and, for root, without those of other users."""
    given = os.environ.get("PATH") or _DEFAULT_PATH
    return os.pathsep.join(filter(_is_trusted, given.split(os.pathsep))) or _DEFAULT_PATH


def _is_trusted(folder: str) -> bool:
    """Return whether programs in *folder* are trusted.

    For root the folder must belong to root and be writable for root alone, which sudo and sshd
    require, too.
    """
    if not os.path.isabs(folder):
        return False
    if os.geteuid() != 0:
        return True
    try:
        facts = os.stat(folder)
    except OSError:
        return False
    return facts.st_uid == 0 and not facts.st_mode & _OTHERS_WRITE


def find_program(name: str) -> str | None:
    """Return the absolute path of a program in search_path(), or None."""
    if os.sep in name:
        return shutil.which(os.path.abspath(name))
    return shutil.which(name, path=search_path())


def interpreter(program: str, *arguments: Argument) -> list[Argument]:
    """Return the command that runs *program*, Python source text, in an isolated interpreter."""
    paths = [str(Path(cbtfs.__file__).parents[1]), *filter(os.path.isabs, sys.path)]
    start = f"import sys; sys.path += {list(dict.fromkeys(paths))!a}\n"
    return [sys.executable, "-I", "-S", "-c", start + program, *arguments]


def module(name: str, *arguments: Argument) -> list[Argument]:
    """Return the command that runs the module *name* like `python -m`, but isolated."""
    program = f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return interpreter(program, *arguments)


def ends_with_parent(command: Sequence[Argument]) -> list[Argument]:
    """Return a command that runs *command*, whose program is an absolute path.

    The kernel kills it when the thread that starts it ends.
    """
    return interpreter(_RUN_BOUND, str(os.getpid()), *command)


def run(
    command: Sequence[Argument], seconds: float, *, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Run *command* for at most *seconds*, and capture its output.

    Raises:
        OSError: it cannot be started.
        TimeoutExpired: it did not end in time, and was killed.
    """
    return subprocess.run(
        command,
        stdin=DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment() if env is None else env,
        timeout=seconds,
        check=False,
    )


def pipe_through(
    command: Sequence[Argument], data: bytes, seconds: float, *, env: Mapping[str, str]
) -> CompletedProcess[bytes]:
    """Run *command* for at most *seconds* with *data* as its input, and capture its output.

    Raises:
        OSError: it cannot be started.
        TimeoutExpired: it did not end in time, and was killed.
    """
    return subprocess.run(
        command, input=data, capture_output=True, env=env, timeout=seconds, check=False
    )


def start(
    command: Sequence[Argument],
    *,
    stdout: int | IO[bytes] = DEVNULL,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    start_new_session: bool = False,
) -> Popen[bytes]:
    """Start *command* without waiting for its end; the caller enforces a time limit.

    Raises:
        OSError: it cannot be started.
    """
    return Popen(
        command,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment() if env is None else env,
        pass_fds=pass_fds,
        cwd=cwd,
        start_new_session=start_new_session,
    )


def first_line(process: Popen[bytes], seconds: float) -> bytes:
    """Return the first line on a child's standard output; empty if the child ends without one.

    Raises:
        CbtfsError: the child printed no line within *seconds*.
    """
    assert process.stdout is not None
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(seconds):
                process.kill()
                raise CbtfsError(f"{_name_of(process)} was not ready in {seconds:.0f} s")
            byte = os.read(process.stdout.fileno(), 1)
            if not byte:
                break
            line += byte
    return line


def _name_of(process: Popen[Any]) -> str:
    words = process.args
    return str(words[0]) if isinstance(words, Sequence) and words else "a child process"


def forbid_core_dumps() -> None:
    """Hide the memory of this process from core dumps and from debuggers of the same user.

    Children inherit the limit. If core dumps are piped to a program, the kernel ignores the limit
    (core(5)), so the process is also made undumpable.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
