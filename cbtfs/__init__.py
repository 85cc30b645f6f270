"""Capture virtual disks with Changed Block Tracking; read every restore point as a raw file.

The names in `__all__` are the Python API; docs/python.md describes them. They are loaded at their
first use, because every command imports this package. This module imports nothing else: the program
has not isolated itself from the current directory and PYTHONPATH yet (cbtfs.cli.start).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from cbtfs.api.disk import Change, DiskFile, Extent
    from cbtfs.api.repository import Disk, Point, Repository, open_repository
    from cbtfs.errors import (
        AccessDenied,
        CbtfsError,
        ChunkMissing,
        DataCorrupt,
        PointNotFound,
        RepositoryNotFound,
        UsageError,
    )

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "CbtfsError",
    "Change",
    "ChunkMissing",
    "DataCorrupt",
    "Disk",
    "DiskFile",
    "Extent",
    "Point",
    "PointNotFound",
    "Repository",
    "RepositoryNotFound",
    "UsageError",
    "open_repository",
]

_HOMES: "Final" = {
    **dict.fromkeys(("Change", "DiskFile", "Extent"), "cbtfs.api.disk"),
    **dict.fromkeys(("Disk", "Point", "Repository", "open_repository"), "cbtfs.api.repository"),
}
"""Modules of the names; the others are in cbtfs.errors."""


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "cbtfs.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
