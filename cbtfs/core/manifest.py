"""The immutable record of one committed restore point, and its mutable state (docs/format.md)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

from cbtfs.core.allocation import Allocation, allocation_of
from cbtfs.core.fields import (
    Document,
    choice,
    digest_of,
    file_name,
    id_of,
    ids,
    integer,
    items,
    mapping,
    moment,
    optional,
    text,
)
from cbtfs.core.ids import NULL_DIGEST, Digest, DiskId, PointId, VmId
from cbtfs.core.proof import Proof, proof_of
from cbtfs.core.reasons import FullReason, parse_full_reason
from cbtfs.core.sealed import seal, unseal

MANIFEST_FORMAT: Final = 1
ACKNOWLEDGED: Final = "acknowledged"
"""Tag of a suspect point whose operator has acknowledged the suspicion."""

IngestKind = Literal["full", "incremental"]
TimeSource = Literal["clock", "given"]
DiskKind = Literal["disk", "file"]
ReadMethod = Literal["full", "scan", "incremental"]

MIN_BLOCK_BYTES: Final = 4096
MAX_BLOCK_BYTES: Final = 1 << 20
MAX_DISK_BYTES: Final = 1 << 56
MAX_DISKS: Final = 4093
"""Maximum number of disks and small files of a point: inode numbers per point in the mount."""


def is_block_size(size: int) -> bool:
    """Return whether *size* is a valid block size: a power of two, 4 KiB to 1 MiB."""
    return MIN_BLOCK_BYTES <= size <= MAX_BLOCK_BYTES and size & (size - 1) == 0


@dataclass(frozen=True, slots=True)
class Vm:
    """The VM of a point. *directory* is its permanent file name."""

    id: VmId
    name: str
    directory: str
    vcenter: str | None = None
    instance_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one ingest of one disk."""

    read_bytes: int = 0
    written_blocks: int = 0
    """Blocks read that hold data and differ from the parent's block."""
    zero_blocks: int = 0
    """Blocks read that are all zeros."""
    new_bytes: int = 0
    """Plain bytes of chunks that the repository did not have."""
    stored_bytes: int = 0
    """Bytes of the frames written: chunks and nodes."""


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """One disk at one restore point."""

    id: DiskId
    identity: str
    """Identifies this disk among those of its VM across runs; the source defines it."""
    label: str
    kind: DiskKind
    size: int
    block_size: int
    root: Digest
    """Digest of the block map's root; NULL_DIGEST if the whole disk is zeros."""
    data_blocks: int
    """Blocks that are not zeros."""
    ingest: IngestKind
    reason: str
    parent: PointId | None = None
    change_id: str | None = None
    suspect: str | None = None
    audit: Mapping[str, Any] | None = None
    full_reason: FullReason | None = None
    """Code of *reason* if the whole disk was read; None also in points of older programs."""
    allocation: Allocation | None = None
    """Areas that were never read; None if the source knows holes, and in older points."""
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_DISK_BYTES or not is_block_size(self.block_size):
            raise ValueError(f"invalid disk: size {self.size}, block size {self.block_size}")
        if not self.size and self.root != NULL_DIGEST:
            raise ValueError("a disk of size 0 has content")
        unproven = () if self.allocation is None else self.allocation.unproven
        if unproven and unproven[-1].end > self.size:
            raise ValueError("an unproven area ends beyond the disk")

    @property
    def method(self) -> ReadMethod:
        """How the disk was read: by a change list, or completely; a scan compares with a parent."""
        if self.ingest == "incremental":
            return "incremental"
        return "full" if self.parent is None else "scan"

    @property
    def data_bytes(self) -> int:
        """Bytes in blocks that are not zeros; the last block may count as a full one."""
        return min(self.data_blocks * self.block_size, self.size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One VM's disks at one moment."""

    point: PointId
    vm: Vm
    order: int
    """Order number of the point within its VM: larger is later, gaps are allowed."""
    time: str
    """Moment of the snapshot: RFC 3339, UTC."""
    name: str
    """Name of the point in the mount."""
    committed: str
    """Clock time when the manifest was written: RFC 3339, UTC."""
    run: str
    program: str
    kind: IngestKind
    reason: str
    disks: tuple[DiskRecord, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further documents of the source about the VM; JSON."""
    time_source: TimeSource | None = None
    """Whether *time* comes from a clock or from the user; None in points of older programs."""

    @property
    def is_clocked(self) -> bool:
        """Whether the time comes from a clock, which is the default."""
        return self.time_source != "given"

    def of_kind(self, kind: DiskKind) -> list[DiskRecord]:
        """Return the virtual disks, or the small files of the VM."""
        return [disk for disk in self.disks if disk.kind == kind]

    def disk(self, label: str) -> DiskRecord | None:
        """Return the disk with this label or, without one, the disk with this id."""
        for disk in self.disks:
            if disk.label == label:
                return disk
        return next((disk for disk in self.disks if disk.id == label), None)


@dataclass(frozen=True, slots=True)
class PointState:
    """The mutable facts of a point."""

    point: PointId
    is_protected: bool = False
    tags: tuple[str, ...] = ()
    suspect: str | None = None
    """Why bytes of the point may be wrong; None if it is not suspect."""
    suspect_disks: tuple[DiskId, ...] = ()
    """The suspect disks; empty if all disks are suspect."""
    verified: str | None = None
    """Moment of the last successful verification of all its data: RFC 3339, UTC."""
    proof: Proof | None = None
    """Levels of `prove` that the point passed; None if it was never tested."""

    def suspects(self, disk: DiskId) -> str | None:
        """Return why bytes of *disk* may be wrong; None if it is not suspect."""
        return None if self.suspect_disks and disk not in self.suspect_disks else self.suspect

    def suspecting(self, disk: DiskId, reason: str) -> "PointState":
        """Return the state with *disk* suspect; the same state if it already is.

        Removes the tag `acknowledged`, because nobody has acknowledged this disk.
        """
        if self.suspects(disk) is not None:
            return self
        return replace(
            self,
            suspect=reason if self.suspect is None else f"{self.suspect}; {reason}",
            suspect_disks=(*self.suspect_disks, disk),
            tags=tuple(tag for tag in self.tags if tag != ACKNOWLEDGED),
        )


def unknown_state(point: PointId) -> PointState:
    """Return the substitute for a missing or damaged state file: protected and suspect."""
    return PointState(point, is_protected=True, suspect="its state file is missing or damaged")


def encode_manifest(manifest: Manifest) -> bytes:
    document = asdict(manifest)
    document["format"] = MANIFEST_FORMAT
    for disk in document["disks"]:
        disk["root"] = disk["root"].hex()
    return seal(document)


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest in a sealed file; ValueError with the reason if it is invalid."""
    return manifest_of(unseal(data))


def manifest_of(document: Document) -> Manifest:
    """Return the manifest in a parsed *document*; ValueError with the reason if it is invalid."""
    version = integer(document, "format")
    if version != MANIFEST_FORMAT:
        raise ValueError(f"manifest format {version}")
    vm = mapping(document, "vm")
    return Manifest(
        point=PointId(id_of(document, "point")),
        vm=Vm(
            id=VmId(id_of(vm, "id")),
            name=text(vm, "name"),
            directory=file_name(vm, "directory"),
            vcenter=optional(vm, "vcenter", text),
            instance_uuid=optional(vm, "instance_uuid", text),
        ),
        order=integer(document, "order"),
        time=moment(document, "time"),
        name=file_name(document, "name"),
        committed=moment(document, "committed"),
        run=id_of(document, "run"),
        program=text(document, "program"),
        kind=choice(document, "kind", get_args(IngestKind)),
        reason=text(document, "reason"),
        disks=tuple(_disk_of(disk) for disk in items(document, "disks")),
        metadata=mapping(document, "metadata"),
        time_source=optional(document, "time_source", _time_source),
    )


def _time_source(document: Document, key: str) -> TimeSource:
    source: TimeSource = choice(document, key, get_args(TimeSource))
    return source


def _disk_of(document: Document) -> DiskRecord:
    counts = mapping(document, "counts")
    parent = optional(document, "parent", id_of)
    return DiskRecord(
        id=DiskId(id_of(document, "id")),
        identity=text(document, "identity"),
        label=text(document, "label"),
        kind=choice(document, "kind", get_args(DiskKind)),
        size=integer(document, "size"),
        block_size=integer(document, "block_size"),
        root=digest_of(document, "root"),
        data_blocks=integer(document, "data_blocks"),
        ingest=choice(document, "ingest", get_args(IngestKind)),
        reason=text(document, "reason"),
        parent=None if parent is None else PointId(parent),
        change_id=optional(document, "change_id", text),
        suspect=optional(document, "suspect", text),
        audit=optional(document, "audit", mapping),
        full_reason=optional(document, "full_reason", full_reason_in),
        allocation=optional(document, "allocation", _allocation_in),
        counts=Counts(**{member.name: integer(counts, member.name) for member in fields(Counts)}),
    )


def _allocation_in(document: Document, key: str) -> Allocation:
    return allocation_of(mapping(document, key))


def full_reason_in(document: Document, key: str) -> FullReason:
    """Return the reason code in a member of *document*; OTHER if a newer program wrote it."""
    return parse_full_reason(text(document, key))


def encode_state(state: PointState) -> bytes:
    return seal(asdict(state))


def decode_state(data: bytes, point: PointId) -> PointState:
    """Return the state of *point* in a sealed file; ValueError if invalid or another point's."""
    document = unseal(data)
    if id_of(document, "point") != point:
        raise ValueError("state of another point")
    protected = document.get("is_protected")
    tags = document.get("tags")
    if not isinstance(protected, bool) or not isinstance(tags, list):
        raise ValueError("not the state of a point")
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError("member 'tags' is not an array of strings")
    return PointState(
        point=point,
        is_protected=protected,
        tags=tuple(tags),
        suspect=optional(document, "suspect", text),
        suspect_disks=tuple(map(DiskId, optional(document, "suspect_disks", ids) or ())),
        verified=optional(document, "verified", moment),
        proof=optional(document, "proof", _proof_in),
    )


def _proof_in(document: Document, key: str) -> Proof:
    return proof_of(mapping(document, key))
