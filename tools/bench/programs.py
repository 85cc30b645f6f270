"""Programs that the bench runs: required peers, and the cost of one run."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, UsageError
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE

PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu-storage-daemon": ("--version",),
    "qemu-img": ("--version",),
    "qemu-nbd": ("--version",),
    "nbdfuse": ("--version",),
    "restic": ("version",),
    "borg": ("--version",),
    "zstd": ("--version",),
    "fio": ("--version",),
}
"""Peers and tools that the bench requires, with the arguments that print their version."""

ROOT: Final = Path(__file__).parents[2]
"""Checkout that contains this bench."""


_LAUNCH: Final = """
import os, sys, time
os.set_inheritable(int(sys.argv[1]), False)
started = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - started
os.write(int(sys.argv[1]), b"%f %d" % (seconds, usage.ru_maxrss))
sys.exit(min(abs(os.waitstatus_to_exitcode(status)), 255))
"""
"""Small launcher: a process inherits the peak memory of the process that started it."""


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """Cost and output of one run of a program."""

    seconds: float
    peak_bytes: int
    """Largest resident set of the process and its children that it waited for."""
    output: str


@dataclass(frozen=True, slots=True)
class Program:
    """A version of cbtfs to measure, in a checkout."""

    name: str
    checkout: Path = ROOT
    key: Path | None = None
    """Key file of its encrypted repositories; what it remembers of them is kept beside it."""

    def command(self, repository: Path, *arguments: str | Path) -> list[str]:
        words = [sys.executable, "-m", "cbtfs", "--repo", repository, *arguments]
        return [str(word) for word in words]

    @property
    def environment(self) -> dict[str, str]:
        secret = {}
        if self.key is not None:
            state = self.key.with_name("state")
            secret = {KEY_FILE_VARIABLE: str(self.key), "XDG_STATE_HOME": str(state)}
        return {
            **secret,
            "PYTHONPATH": str(self.checkout),
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "",  # else each start would compile all modules
        }

    def compile(self) -> None:
        """Compile the modules, as an installation does."""
        command = [sys.executable, "-m", "compileall", "-q", str(self.checkout / "cbtfs")]
        subprocess.run(command, check=True)

    def run(self, repository: Path, *arguments: str | Path) -> ProgramRun:
        return run(self.command(repository, *arguments), self.environment)


def require() -> None:
    """Raise UsageError unless every peer is installed and this process may mount."""
    if os.geteuid() != 0:
        raise UsageError(
            "not running as root: the bench drops caches and mounts file systems; run it as root"
        )
    missing = [name for name in PEERS if shutil.which(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not installed: run tools/bench/setup")


def raise_file_limit() -> None:
    """Raise the limit of open files: a chain of 1,000 images needs as many descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
) -> ProgramRun:
    """Run a command and wait for its end; raise CbtfsError with its last line if it fails."""
    reading, writing = os.pipe()
    with (
        open(reading) as report,
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, str(writing), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            text=True,
            pass_fds=[writing],
            process_group=0,
        ) as process,
    ):
        os.close(writing)
        try:
            output = process.communicate()[0]
        except BaseException:  # the caller unmounts next: no process may use the mount
            os.killpg(process.pid, signal.SIGKILL)
            raise
        seconds, peak = report.read().split() or ("0", "0")
    if process.returncode:
        words = output.strip().splitlines() or [f"code {process.returncode}"]
        raise CbtfsError(f"{command[0]} failed: {words[-1]}")
    return ProgramRun(float(seconds), int(peak) * 1024, output)
