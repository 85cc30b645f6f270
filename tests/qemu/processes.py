"""Processes that work in a directory."""

import os
from pathlib import Path
from typing import Final

UNPRIVILEGED: Final = ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2")
"""Lines in the status of a process that is in the sandbox of proofs."""


def using(path: Path) -> list[int]:
    """Return the processes that have *path* in their command line."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(path) in words:
                found.append(int(process.name))
    return found


def status(pid: int) -> str:
    """Return the status of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """Return the name of a process; empty if it has ended."""
    return status(pid).partition("\n")[0].removeprefix("Name:\t")
