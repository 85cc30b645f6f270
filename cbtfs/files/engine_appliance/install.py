"""Whether this machine can run an appliance."""

import os
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.errors import UsageError

_KERNELS: Final = Path("/boot")
_PATTERNS: Final = ("vmlinuz-*", "vmlinux-*")


def require_appliance() -> None:
    """Raise UsageError, which names the package, if a part of the appliance is missing."""
    if process.find_program("guestfish") is None:
        raise UsageError(
            "the engine appliance needs libguestfs: install the package libguestfs-tools"
        )
    kernels = [path for pattern in _PATTERNS for path in sorted(_KERNELS.glob(pattern))]
    if not kernels:
        raise UsageError(
            "the engine appliance needs a kernel in /boot: install the package "
            "linux-image-cloud-amd64, or another linux-image"
        )
    if not any(os.access(path, os.R_OK) for path in kernels):
        raise UsageError(
            f"the engine appliance cannot read {kernels[-1]}: as root, run chmod 644 {kernels[-1]}"
        )
