"""What a user options of the capture of VMs, and what became of it."""

from dataclasses import dataclass

from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import Manifest
from cbtfs.ingest.plan import Want


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How the user wants VMs to be captured."""

    want: Want = "auto"
    quiesce: bool = False
    upgrade_hardware: bool = False
    allow_partial: bool = False
    include: tuple[str, ...] = ()
    """Labels or device keys: only these disks; empty for all."""
    exclude: tuple[str, ...] = ()
    max_snapshot_age: float | None = None
    """Seconds."""
    audit: Sampling | None = None
    """How the server's lists of changes are put to the test; None: they are not."""
    resume: bool = True
    """Whether the snapshot of a run that ended early may be taken over, and what it captured."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A disk that is not in the point."""

    disk: str
    key: int
    reason: str
    is_wanted: bool
    """The user did not ask for that."""


@dataclass(frozen=True, slots=True)
class VmIngestResult:
    """A point that was taken."""

    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    """What is not as it should be on the server now."""
    notes: tuple[str, ...] = ()
    """What was done to the VM, or is worth knowing of it."""

    @property
    def is_whole(self) -> bool:
        return not self.warnings and not any(each.is_wanted for each in self.left_out)
