"""All knobs of the simulator. The defaults describe a server that behaves correctly.

A knob group is an immutable value; `Knobs.change` replaces it. docs/vsim.md lists all knobs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from tools.vsim.rules import FaultRules

Group = TypeVar("Group")


class KnobError(ValueError):
    """Raised when a knob does not exist or its value is invalid."""


def validate(group: object) -> None:
    """Raise KnobError if a field holds a value that its annotation does not allow."""
    hints = get_type_hints(type(group))
    for knob in fields(group):  # type: ignore[arg-type]
        value, hint = getattr(group, knob.name), hints[knob.name]
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise KnobError(f"invalid {knob.name} {value!r}: use one of {get_args(hint)}")
        elif hint is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise KnobError(f"invalid {knob.name} {value!r}: use a number of 0 or more")
        elif hint is int:
            signed = knob.name.endswith("_delta")
            if isinstance(value, bool) or not isinstance(value, int) or (value < 0 and not signed):
                raise KnobError(f"invalid {knob.name} {value!r}: use an integer of 0 or more")
        elif isinstance(hint, type) and not isinstance(value, hint):
            raise KnobError(f"invalid {knob.name} {value!r}: use a value of type {hint.__name__}")


@dataclass(frozen=True, slots=True)
class CbtKnobs:
    """Knobs of change tracking and QueryChangedDiskAreas. A disk can have its own."""

    granularity: int = 65536  # bytes per tracked block; applies when tracking starts or is reset
    max_extents: int = 2000  # extents per page
    page_span: int = 0  # bytes of the disk that a page describes at most; 0: no limit
    empty_pages: bool = False  # each gap before an extent is a separate page without extents
    cut_at: Literal["extent-end", "next-start", "middle"] = "extent-end"  # end of a full page
    false_positives: int = 0  # unchanged blocks that every page reports as changed
    silent_misses: float = 0.0  # fraction of the changed blocks that are never reported
    seed: int = 0  # random seed of the two knobs above
    allocation_misses: float = 0.0  # fraction of the used blocks that no answer to '*' has
    unmap_reported: bool = True  # whether discarded ranges count as changed
    unmap_unit: int = 1 << 20  # bytes that the datastore frees at once; VMFS: 1 MiB
    star: Literal["allocated", "whole", "fault"] = "allocated"  # the answer to changeId '*'
    malformed: Literal[
        "", "echo", "zero-length", "overlap", "unsorted", "outside", "past-end", "empty-extent"
    ] = ""  # which rule of the answer is broken
    same_sequence: bool = False  # a new snapshot repeats the sequence number
    sequence_step: int = 1
    ignore_stale: bool = False  # answer a change ID of an older epoch with all blocks in use
    no_change_id: bool = False  # disks show no changeId although tracking is enabled
    revert: Literal["new-epoch", "keep-epoch", "keep-id"] = "new-epoch"
    extend_skews: bool = False  # growing past 128 GiB (256, 512 …) corrupts the map: KB 310751
    relocate: Literal["keep", "reset", "off"] = (
        "keep"  # effect of storage vMotion; off: as HCX does
    )
    restore: Literal["reset", "unseen"] = "reset"  # effect of a restore by another product
    flag_writes_keys: bool = False  # setting the flag to its present value writes the disks' keys
    hard_power_off: Literal["keep", "reset"] = "keep"
    bad_id: Literal["FileFault", "InvalidArgument"] = (
        "InvalidArgument"  # fault for a malformed changeId
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.granularity < 512 or self.granularity % 512:
            raise KnobError(f"invalid granularity {self.granularity}: use a multiple of 512")
        if self.unmap_unit < 4096 or self.unmap_unit % 4096:
            raise KnobError(f"invalid unmap_unit {self.unmap_unit}: use a multiple of 4096")
        if self.max_extents < 1:
            raise KnobError("max_extents must be 1 or more")


@dataclass(frozen=True, slots=True)
class SnapshotKnobs:
    """Knobs of snapshots, their removal and consolidation."""

    quiesce: Literal["ok", "application", "filesystem", "tools", "ignored"] = "ok"
    needs_consolidation: bool = False  # removal succeeds but keeps the delta disks
    locked_by_readers: bool = False  # open readers prevent consolidation: FileLocked
    consolidate_locked: bool = False  # ConsolidateVMDisks_Task fails with FileLocked
    physical_rdm: Literal["left-out", "fault"] = "fault"
    max_depth: int = 32  # a deeper tree raises TooManySnapshotLevels
    revert_event: bool = True  # a revert logs an event
    keep_truth: bool = False  # keep the reference images of removed snapshots
    enable_with_snapshots: Literal["allow", "spoils", "fault"] = (
        "allow"  # effect of starting tracking
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class TaskKnobs:
    """Knobs of tasks."""

    seconds: float = 0.0  # duration of every task
    in_progress_as: Literal["task", "call"] = "task"  # object that carries TaskInProgress

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class SessionKnobs:
    """Knobs of sessions and the property collector."""

    idle_seconds: float = 1800.0
    ended_as: Literal["fault", "missing-set"] = (
        "fault"  # how a property read reports that the session ended
    )
    wait_seconds: float = 1800.0  # maximum duration of WaitForUpdatesEx
    objects_per_page: int = 0  # page size of RetrievePropertiesEx without maxObjects; 0: no limit
    updates_per_set: int = 100  # maximum of ObjectUpdates in one UpdateSet
    nested_updates: Literal["asked", "always"] = (
        "asked"  # whether updates name nested properties although the filter wants whole ones
    )
    unreadable: str = ""  # shell pattern of property paths that nobody may read

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class AnswerKnobs:
    """Knobs of SOAP answers that no correct server sends."""

    endless_pages: bool = False  # every page of properties has a token for a next page
    always_truncated: bool = False  # every UpdateSet is truncated
    parent_cycle: bool = False  # every folder is its own parent
    current_session: bool = True  # whether SessionManager has the property currentSession
    entities: int = 0  # levels of XML entities, each ten times as long as the one below
    padding: int = 0  # bytes of white space in every answer
    gzip: bool = False  # compress answers
    drip_seconds: float = 0.0  # delay before every byte of an answer

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class DataKnobs:
    """Knobs of NBD, /folder and leases."""

    delay_seconds: float = 0.0  # delay before every read
    size_delta: int = 0  # bytes added to the size of an NBD export
    holes: Literal["zero", "hole", "none"] = "zero"  # base:allocation status of holes
    allocation_misses: float = 0.0  # fraction of the used blocks that NBD and VDDK call holes
    min_block: int = 1  # minimum block size; NBD refuses unaligned reads
    max_readers: int = 0  # maximum of NBD connections per host; 0: no limit
    ranges: bool = True  # /folder supports Range
    locked_status: int = 500  # HTTP status for a file that a running machine has open
    base_locked: bool = False  # a running machine has the base disks below a snapshot open, too
    lease_seconds: float = 300.0  # a lease times out after this time without progress
    lease_star: bool = False  # lease URLs contain * in place of the host
    lease_host: str = ""  # host in lease URLs; default: the host of the server
    lease_pin: Literal["thumbprint", "none", "wrong"] = "thumbprint"  # sslThumbprint of lease URLs
    lease_fails: bool = False  # a lease becomes an error in place of ready
    lease_stream: Literal[
        "",
        "deflate",
        "bomb",
        "order",
        "missing-grain",
        "missing-table",
        "directory",
        "no-footer",
        "capacity",
        "trailing",
    ] = ""  # defect of the files that leases export: StreamFault of data/streamed.py

    def __post_init__(self) -> None:
        validate(self)
        if self.min_block < 1:
            raise KnobError("min_block must be 1 or more")


@dataclass(frozen=True, slots=True)
class VddkKnobs:
    """Knobs of the library in tools/vsim/vddk."""

    sessions: bool = True  # login with a session cookie is supported
    modes: str = "nbdssl:nbd"  # available transport modes; a request for other modes gets nbdssl
    nfc_limit: int = 0  # maximum bytes of a read; 0: no limit
    asynchronous: bool = True  # ReadAsync is supported
    allocated: Literal["yes", "unsupported", "malformed"] = (
        "yes"  # behaviour of QueryAllocatedBlocks
    )
    log_lines: int = 0  # lines that each of four threads logs per connection
    log_secrets: bool = False  # these lines contain user, password or cookie, and thumbprint

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True)
class NfcKnobs:
    """Knobs of the NFC server and of its tickets."""

    tls: Literal["1.2", "1.3"] = "1.2"  # newest version of TLS
    sha256: bool = True  # the greeting offers SHA256; otherwise THUMBPRINT_SHA2 is refused
    nfcssl: bool = True  # the greeting offers NFCSSL; otherwise PROXY refuses it
    early_status: bool = True  # message 36 comes before message 51 of the client, or after it
    version: int = 11  # number in message 51
    library: int = 11  # answer of NfcGetServerNfcLibVersion
    pin: Literal["thumbprint", "certificate", "none", "wrong"] = "thumbprint"  # of a ticket
    host: bool = True  # tickets of a vCenter contain the host
    certificate: Literal["same", "first", "second", "digest"] = (
        "same"  # where another certificate is shown
    )
    ticket_seconds: float = 0.0  # lifetime of a ticket; 0: no limit
    bound: bool = False  # connections end with the session that asked for the ticket
    max_sessions: int = 52  # open sessions per host
    budget: int = 48 << 20  # bytes of buffers per host
    buffer: int = 0  # bytes of a fragment; 0: as the client asks
    shuffle: bool = True  # fragments of concurrent reads come in random order
    seed: int = 0  # random seed of the order, and of misses
    codes: str = "zlib:fastlz:skipz"  # compressions; without them the server sends plain bytes
    size_delta: int = 0  # bytes added to the capacity
    sector: int = 512  # sector size in the reply to OPEN_FILE
    refusal: Literal["aio", "classic"] = "aio"  # form of the refusal to open a running disk
    allocation: Literal["yes", "unsupported", "all"] = "yes"  # QUERY_ALLOCATED_BLOCKS
    misses: float = 0.0  # fraction of the allocated chunks that the bitmap does not show
    removed: Literal["frozen", "merged"] = (
        "frozen"  # bytes of an open disk after its snapshot was removed
    )

    vmotion: Literal["continues", "ends"] = (
        "continues"  # open sessions of a machine that moves to another host
    )

    def __post_init__(self) -> None:
        validate(self)


GROUPS = ("cbt", "snapshot", "task", "session", "answer", "data", "vddk", "nfc")


@dataclass(slots=True)
class Knobs:
    """All knob groups, and the rules for single calls and reads."""

    cbt: CbtKnobs = field(default_factory=CbtKnobs)
    snapshot: SnapshotKnobs = field(default_factory=SnapshotKnobs)
    task: TaskKnobs = field(default_factory=TaskKnobs)
    session: SessionKnobs = field(default_factory=SessionKnobs)
    answer: AnswerKnobs = field(default_factory=AnswerKnobs)
    data: DataKnobs = field(default_factory=DataKnobs)
    vddk: VddkKnobs = field(default_factory=VddkKnobs)
    nfc: NfcKnobs = field(default_factory=NfcKnobs)
    rules: FaultRules = field(default_factory=FaultRules)

    def change(self, group: str, **changes: Any) -> None:
        """Set knobs of a group; raises KnobError."""
        if group not in GROUPS:
            raise KnobError(f"no knob group {group!r}: use one of {', '.join(GROUPS)}")
        setattr(self, group, changed(getattr(self, group), changes))

    def reset(self) -> None:
        """Restore all defaults and remove all rules."""
        for name in GROUPS:
            setattr(self, name, type(getattr(self, name))())
        self.rules.clear()


def changed(group: Group, changes: Mapping[str, Any]) -> Group:
    """Return a copy of the group with some knobs changed; raises KnobError."""
    unknown = changes.keys() - {knob.name for knob in fields(group)}  # type: ignore[arg-type]
    if unknown:
        raise KnobError(f"{type(group).__name__} has no knob {', '.join(sorted(unknown))}")
    return replace(group, **changes)  # type: ignore[type-var]
