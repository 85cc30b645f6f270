"""Paths for messages, without the indirection through a descriptor."""

import os
from pathlib import Path


def shown(path: Path) -> Path:
    """Return *path* with a leading /proc/self/fd/N replaced by the path of that descriptor."""
    parts = path.parts
    if parts[:4] != ("/", "proc", "self", "fd") or len(parts) < 5:
        return path
    try:
        return Path(os.readlink(Path(*parts[:5])), *parts[5:])
    except OSError:
        return path
