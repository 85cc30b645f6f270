"""Processes that work in a directory."""

import os
from pathlib import Path


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
