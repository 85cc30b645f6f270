"""Paths for messages: those that lead through a descriptor, as the user knows them."""

import os
from pathlib import Path


def shown(path: Path) -> Path:
    """*path* as the user knows it, where it leads through a descriptor of this process."""
    parts = path.parts
    if parts[:4] != ("/", "proc", "self", "fd") or len(parts) < 5:
        return path
    try:
        return Path(os.readlink(Path(*parts[:5])), *parts[5:])
    except OSError:
        return path
