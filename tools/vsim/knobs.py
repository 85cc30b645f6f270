"""Every knob of the simulator: what it does when nobody asks it to misbehave, and what it can do.

A knob group is an immutable value; `Knobs.change` replaces one. `docs/vsim.md` lists them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from tools.vsim.rules import FaultRules

Group = TypeVar("Group")


class KnobError(ValueError):
    """No such knob, or not a value for it."""


def validate(group: object) -> None:
    """Raise KnobError where a field holds what its annotation does not allow."""
    hints = get_type_hints(type(group))
    for knob in fields(group):  # type: ignore[arg-type]
        value, hint = getattr(group, knob.name), hints[knob.name]
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise KnobError(f"{knob.name} is one of {get_args(hint)}, not {value!r}")
        elif hint is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise KnobError(f"{knob.name} is a number from 0, not {value!r}")
        elif hint is int:
            signed = knob.name.endswith("_delta")
            if isinstance(value, bool) or not isinstance(value, int) or (value < 0 and not signed):
                raise KnobError(f"{knob.name} is a whole number from 0, not {value!r}")
        elif isinstance(hint, type) and not isinstance(value, hint):
            raise KnobError(f"{knob.name} is a {hint.__name__}, not {value!r}")


@dataclass(frozen=True, slots=True)
class CbtKnobs:
    """Change tracking and QueryChangedDiskAreas. Settable for one disk, too."""

    granularity: int = 65536  # bytes; takes effect where tracking starts or starts anew
    max_extents: int = 2000  # extents a page
    page_span: int = 0  # a page describes at most so many bytes of the disk; 0: no limit
    empty_pages: bool = False  # a gap before an extent is a page of its own, without extents
    cut_at: Literal["extent-end", "next-start", "middle"] = "extent-end"  # where a full page ends
    false_positives: int = 0  # blocks reported though unchanged, the same in every page
    silent_misses: float = 0.0  # share of the changed blocks that is not reported
    seed: int = 0  # of the two above
    unmap_reported: bool = True  # whether discarded ranges count as changed
    unmap_unit: int = 1 << 20  # bytes that are given back together; VMFS: 1 MiB
    star: Literal["allocated", "whole", "fault"] = "allocated"  # the answer to changeId '*'
    malformed: Literal[
        "", "echo", "zero-length", "overlap", "unsorted", "outside", "past-end", "empty-extent"
    ] = ""  # break a rule of the answer
    same_sequence: bool = False  # a new snapshot does not get a higher sequence number
    sequence_step: int = 1
    ignore_stale: bool = False  # answer an id of an older epoch as if it were number 0 of this one
    no_change_id: bool = False  # disks have no changeId although tracking is on
    revert: Literal["new-epoch", "keep-epoch", "keep-id"] = "new-epoch"
    extend_skews: bool = False  # growing past 128 GiB (or 256, 512 …) spoils the map, KB 310751
    relocate: Literal["keep", "reset", "off"] = "keep"  # storage vMotion; off: as HCX leaves it
    restore: Literal["reset", "unseen"] = "reset"  # what another product writes back to a disk
    flag_writes_keys: bool = False  # setting the flag to the value it has writes the disks' keys
    hard_power_off: Literal["keep", "reset"] = "keep"
    bad_id: Literal["FileFault", "InvalidArgument"] = "InvalidArgument"  # malformed changeId

    def __post_init__(self) -> None:
        validate(self)
        if self.granularity < 512 or self.granularity % 512:
            raise KnobError(f"granularity is a multiple of 512, not {self.granularity}")
        if self.unmap_unit < 4096 or self.unmap_unit % 4096:
            raise KnobError(f"unmap_unit is a multiple of 4096, not {self.unmap_unit}")
        if self.max_extents < 1:
            raise KnobError("max_extents is at least 1")


@dataclass(frozen=True, slots=True)
class SnapshotKnobs:
    """Snapshots, their removal, consolidation."""

    quiesce: Literal["ok", "application", "filesystem", "tools", "ignored"] = "ok"
    needs_consolidation: bool = False  # removal succeeds but leaves the delta disks
    locked_by_readers: bool = False  # open readers keep removal from consolidating: FileLocked
    consolidate_locked: bool = False  # ConsolidateVMDisks_Task fails with FileLocked
    physical_rdm: Literal["left-out", "fault"] = "fault"
    max_depth: int = 32  # TooManySnapshotLevels beyond
    revert_event: bool = True  # a revert leaves an event
    keep_truth: bool = False  # keep the frozen images of removed snapshots
    enable_with_snapshots: Literal["allow", "spoils", "fault"] = "allow"  # where tracking begins

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class TaskKnobs:
    """Tasks."""

    seconds: float = 0.0  # every task takes so long
    in_progress_as: Literal["task", "call"] = "task"  # how TaskInProgress arrives

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class SessionKnobs:
    """Sessions and the property collector."""

    idle_seconds: float = 1800.0
    ended_as: Literal["fault", "missing-set"] = "fault"  # how a property read reports the end
    wait_seconds: float = 1800.0  # the longest the server keeps a WaitForUpdatesEx
    objects_per_page: int = 0  # RetrievePropertiesEx pages though not asked to; 0: no limit
    updates_per_set: int = 100  # ObjectUpdates in one UpdateSet

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class AnswerKnobs:
    """SOAP answers that no sound server gives."""

    endless_pages: bool = False  # each page of properties has a token for another one
    always_truncated: bool = False  # each set of updates says that there is more to say
    parent_cycle: bool = False  # each folder is its own parent
    current_session: bool = True  # whether SessionManager has the property of that name
    entities: int = 0  # levels of entities, each ten times the one below, that an answer uses
    padding: int = 0  # bytes of white space in each answer
    gzip: bool = False  # answers are compressed
    drip_seconds: float = 0.0  # pause before each byte of an answer

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class DataKnobs:
    """NBD, /folder and leases."""

    delay_seconds: float = 0.0  # before each read
    size_delta: int = 0  # added to the size that an NBD export announces
    holes: Literal["zero", "hole", "none"] = "zero"  # base:allocation of what is not allocated
    min_block: int = 1  # NBD refuses reads that are not aligned to it
    max_readers: int = 0  # NBD connections to disks of one host at once; 0: no limit
    ranges: bool = True  # whether /folder honours Range
    locked_status: int = 500  # HTTP status of a file that a running machine holds open
    lease_seconds: float = 300.0  # a lease without progress for so long is over
    lease_star: bool = False  # URLs of leases have * for the host

    def __post_init__(self) -> None:
        validate(self)
        if self.min_block < 1:
            raise KnobError("min_block is at least 1")


@dataclass(frozen=True, slots=True)
class VddkKnobs:
    """The library of tools/vsim/vddk."""

    sessions: bool = True  # whether it can log in with a session's cookie
    modes: str = "nbdssl:nbd"  # transports that work; where none is wanted of these: nbdssl
    nfc_limit: int = 0  # bytes of a read that a host can allocate; 0: no limit
    asynchronous: bool = True  # whether it has ReadAsync
    allocated: Literal["yes", "unsupported", "malformed"] = "yes"  # QueryAllocatedBlocks
    log_lines: int = 0  # what each of four threads of its own logs at a connection
    log_secrets: bool = False  # with user, password or cookie, and thumbprint in each

    def __post_init__(self) -> None:
        validate(self)


GROUPS = ("cbt", "snapshot", "task", "session", "answer", "data", "vddk")


@dataclass(slots=True)
class Knobs:
    """All groups, and the rules that act on single calls and reads."""

    cbt: CbtKnobs = field(default_factory=CbtKnobs)
    snapshot: SnapshotKnobs = field(default_factory=SnapshotKnobs)
    task: TaskKnobs = field(default_factory=TaskKnobs)
    session: SessionKnobs = field(default_factory=SessionKnobs)
    answer: AnswerKnobs = field(default_factory=AnswerKnobs)
    data: DataKnobs = field(default_factory=DataKnobs)
    vddk: VddkKnobs = field(default_factory=VddkKnobs)
    rules: FaultRules = field(default_factory=FaultRules)

    def change(self, group: str, **changes: Any) -> None:
        """Set some knobs of a group; raises KnobError."""
        if group not in GROUPS:
            raise KnobError(f"no group {group!r}; there are {', '.join(GROUPS)}")
        setattr(self, group, changed(getattr(self, group), changes))

    def reset(self) -> None:
        """Everything as at the start."""
        for name in GROUPS:
            setattr(self, name, type(getattr(self, name))())
        self.rules.clear()


def changed(group: Group, changes: Mapping[str, Any]) -> Group:
    """A copy of the group with some knobs changed; raises KnobError."""
    unknown = changes.keys() - {knob.name for knob in fields(group)}  # type: ignore[arg-type]
    if unknown:
        raise KnobError(f"no knob {', '.join(sorted(unknown))} in {type(group).__name__}")
    return replace(group, **changes)  # type: ignore[type-var]
