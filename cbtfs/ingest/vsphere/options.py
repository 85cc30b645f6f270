"""Options of the capture of VMs, and its result."""

from dataclasses import dataclass
from typing import Literal

from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import Manifest
from cbtfs.core.proving import Proving
from cbtfs.ingest.plan import Want

AllocationMethod = Literal["transport", "star", "none"]
"""Value of --allocation: ask the transport; ask vSphere, too, where the transport does not know;
ask nobody."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Options of the capture of VMs."""

    want: Want = "auto"
    quiesce: bool = False
    upgrade_hardware: bool = False
    allow_partial: bool = False
    include: tuple[str, ...] = ()
    """Labels or device keys of the only disks to capture; empty: all disks."""
    exclude: tuple[str, ...] = ()
    """Labels or device keys of disks to leave out."""
    max_snapshot_age: float | None = None
    """Seconds."""
    audit: Sampling | None = None
    """Sample size for the audit of change lists; None: no audit."""
    resume: bool = True
    """Whether an interrupted run may be resumed from its snapshot."""
    allocation: AllocationMethod = "transport"
    proving: Proving | None = None
    """How much to read of the areas that are called unallocated; None: nothing."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A disk that is not in the point."""

    disk: str
    """Label."""
    key: int
    """Device key."""
    reason: str
    is_wanted: bool
    """The options do not exclude the disk: the point is incomplete without it."""


@dataclass(frozen=True, slots=True)
class VmIngestResult:
    """A point that was committed, with messages about it."""

    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    """Problems that remain on the server."""
    notes: tuple[str, ...] = ()
    """Changes made to the VM, and other remarks."""

    @property
    def is_whole(self) -> bool:
        is_any_wanted = any(left_out.is_wanted for left_out in self.left_out)
        return not self.warnings and not is_any_wanted
