"""The programs that a bench runs: which there must be, and what a run of one took."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, UsageError

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
"""What is measured against or with, and how each tells its version."""

ROOT: Final = Path(__file__).parents[2]
"""The checkout that this bench belongs to."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of a program took."""

    seconds: float
    peak_bytes: int
    """Of the process and those it waited for: the largest resident set of one of them."""
    output: str


@dataclass(frozen=True, slots=True)
class Program:
    """One cbtfs to measure: that of a checkout."""

    name: str
    checkout: Path = ROOT

    def command(self, repository: Path, *arguments: str | Path) -> list[str]:
        words = [sys.executable, "-m", "cbtfs", "--repo", repository, *arguments]
        return [str(word) for word in words]

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.checkout), "PYTHONSAFEPATH": "1"}

    def run(self, repository: Path, *arguments: str | Path) -> Ran:
        return run(self.command(repository, *arguments), self.environment)


def require() -> None:
    """UsageError unless every peer is there and this process may mount."""
    if os.geteuid() != 0:
        raise UsageError("a bench drops caches and mounts file systems: run it as root")
    missing = [name for name in PEERS if shutil.which(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not found: run tools/bench/setup")


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
) -> Ran:
    """Run a command to its end; CbtfsError with its last words if it fails."""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        cwd=folder,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = output.strip().splitlines() or [f"code {process.returncode}"]
        raise CbtfsError(f"{command[0]} failed: {words[-1]}")
    return Ran(seconds, usage.ru_maxrss * 1024, output)
