"""The directory for files that commands keep, of the XDG Base Directory Specification."""

import os
from pathlib import Path


def state_directory() -> Path | None:
    """Return the directory of this program; None if the user has no home directory."""
    state = os.environ.get("XDG_STATE_HOME") or ""
    try:
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return base / "cbtfs"
