"""Inputs of a restore point: the VM, its disks, and their common options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import DiskKind, TimeSource
from cbtfs.core.proving import Proving
from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.allocation import AskAllocation
from cbtfs.ingest.baseline import NamedBase
from cbtfs.ingest.capture import Progress
from cbtfs.ingest.checkpoints import DiskCheckpoints
from cbtfs.ingest.plan import Want
from cbtfs.source.base import DiskSource
from cbtfs.store.identity import new_id


@dataclass(frozen=True, slots=True)
class VmInput:
    """The VM to capture."""

    name: str
    vcenter: str | None = None
    """Instance UUID of the vCenter, or ID of the host; None for disk images."""
    instance_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class DiskInput:
    """One disk or small file to capture."""

    label: str
    source: DiskSource
    identity: str
    """Identifies the disk among those of the VM, the same in every run."""
    kind: DiskKind = "disk"
    """A small file is always read completely, without progress reports."""
    change_id: str | None = None
    """Token of the source for the moment that it shows."""
    lists_discards: bool = True
    """The change list includes blocks that the guest discarded. If False, blocks with data in the
    base that are no longer allocated count as changed too."""
    checkpoints: DiskCheckpoints | None = None
    """Checkpoints of the disk; None: an interrupted capture cannot be resumed."""
    ask_allocation: AskAllocation | None = None
    """Asks a server which areas a full may skip, until they are proven; None: the source knows its
    holes, as a file system does."""


OnDisk = Callable[[str, int], Progress]
"""Called with the label of a disk and the number of bytes to read, before the first read; returns
the progress callback of that disk."""

LeaveOut = Callable[[DiskInput, SourceUnavailable], bool]
"""Called with a disk that cannot be read; returns whether the point is taken without it."""


def no_progress(label: str, size: int) -> Progress:
    """Report nothing."""
    return lambda count: None


def all_or_nothing(disk: DiskInput, error: SourceUnavailable) -> bool:
    """Leave no disk out."""
    return False


@dataclass(frozen=True, slots=True)
class PointOptions:
    """Options of a restore point that hold for all of its disks."""

    moment: datetime
    """The moment that the disks show."""
    want: Want = "auto"
    audit: Sampling | None = None
    """Sample size for the audit of change lists; None: no audit."""
    on_disk: OnDisk = no_progress
    leave_out: LeaveOut = all_or_nothing
    run: str = field(default_factory=new_id)
    """ID of the run, recorded in the manifest."""
    time_source: TimeSource = "clock"
    """Origin of *moment*."""
    base: NamedBase | None = None
    """Base of every disk; None: the point of the disk that was captured last."""
    proving: Proving | None = None
    """How much to read of the areas that a server calls unallocated; None: nothing."""
