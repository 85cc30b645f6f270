"""Progress record of a run, from which a later run resumes: its snapshot and the checkpoints.

The record is a hint. The run that resumes checks that the snapshot still exists and is the same,
and that the repository has the trees of the checkpoints; otherwise it reads the disks again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from typing import Final, get_args

from cbtfs.core.extent import Extent
from cbtfs.core.fields import (
    Document,
    choice,
    digest_of,
    id_of,
    integer,
    items,
    mapping,
    moment,
    optional,
    text,
    texts,
    truth,
)
from cbtfs.core.ids import Digest, PointId
from cbtfs.core.manifest import Counts, IngestKind, full_reason_in
from cbtfs.core.reasons import FullReason, Reason
from cbtfs.core.sealed import seal, unseal

PROGRESS_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class HeldDisk:
    """A disk of the held snapshot."""

    key: int
    identity: str
    path: str
    root: str
    size: int
    uuid: str | None
    change_id: str | None
    base: PointId | None
    """Base of the disk."""


@dataclass(frozen=True, slots=True)
class HeldSnapshot:
    """A snapshot with the facts that identify it."""

    name: str
    moref: str
    created: str
    """RFC 3339."""
    is_quiesce_wanted: bool
    consistency: str
    """Consistency of the snapshot, as text."""
    untracked: str | None
    """Why changes were not tracked at the snapshot; None if they were."""
    others: tuple[str, ...]
    """The VM's other snapshots, by managed object id."""
    disks: tuple[HeldDisk, ...]
    """The disks to capture."""
    untracked_code: FullReason | None = None
    """Code of *untracked*; None if changes were tracked, or in records of older programs."""

    @property
    def untracked_reason(self) -> Reason | None:
        """Why changes were not tracked; None if they were."""
        if self.untracked is None:
            return None
        return Reason(self.untracked_code or FullReason.OTHER, self.untracked)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress of a disk: the tree of *root* has all leaves before number *leaf*."""

    leaf: int
    root: Digest
    data_blocks: int
    counts: Counts
    """Counts up to this checkpoint; the bytes read are those of the last run only."""


@dataclass(frozen=True, slots=True)
class DiskProgress:
    """Plan and progress of one disk."""

    kind: IngestKind
    reason: str
    block_size: int
    wanted: str
    """Digest of the extents to read, by digest_of_extents()."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """The last checkpoints, oldest first; the newest may not be in a closed pack yet."""
    full_reason: FullReason | None = None
    """Code of *reason* if the whole disk is read; else None."""

    def with_checkpoint(self, checkpoint: Checkpoint, keep: int) -> "DiskProgress":
        """Return the progress with one more checkpoint, limited to the newest *keep*."""
        return replace(self, checkpoints=(*self.checkpoints, checkpoint)[-keep:])


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Progress record of a run."""

    run: str
    snapshot: HeldSnapshot
    disks: Mapping[str, DiskProgress] = field(default_factory=dict)
    """Progress of each disk, by identity."""

    @property
    def leaves(self) -> int:
        """Number of captured leaves of all disks."""
        return sum(disk.checkpoints[-1].leaf for disk in self.disks.values() if disk.checkpoints)


def digest_of_extents(extents: list[Extent]) -> str:
    """Return the SHA-256 of extents, which depends on their order."""
    digest = sha256()
    for extent in extents:
        digest.update(b"%d %d\n" % (extent.start, extent.length))
    return digest.hexdigest()


def encode_progress(progress: RunProgress) -> bytes:
    document = asdict(progress) | {"format": PROGRESS_FORMAT}
    for disk in document["disks"].values():
        disk["marks"] = disk.pop("checkpoints")
        for checkpoint in disk["marks"]:
            checkpoint["root"] = checkpoint["root"].hex()
    return seal(document)


def decode_progress(data: bytes) -> RunProgress:
    """Return the progress record in a sealed file; ValueError with the reason if invalid."""
    document = unseal(data)
    if integer(document, "format") != PROGRESS_FORMAT:
        raise ValueError("unknown format")
    snapshot = mapping(document, "snapshot")
    disks = mapping(document, "disks")
    return RunProgress(
        run=id_of(document, "run"),
        snapshot=HeldSnapshot(
            name=text(snapshot, "name"),
            moref=text(snapshot, "moref"),
            created=moment(snapshot, "created"),
            is_quiesce_wanted=truth(snapshot, "is_quiesce_wanted"),
            consistency=text(snapshot, "consistency"),
            untracked=optional(snapshot, "untracked", text),
            others=tuple(texts(snapshot, "others")),
            disks=tuple(map(_held_disk, items(snapshot, "disks"))),
            untracked_code=optional(snapshot, "untracked_code", full_reason_in),
        ),
        disks={identity: _disk(mapping(disks, identity)) for identity in disks},
    )


def _held_disk(document: Document) -> HeldDisk:
    base = optional(document, "base", id_of)
    return HeldDisk(
        key=integer(document, "key"),
        identity=text(document, "identity"),
        path=text(document, "path"),
        root=text(document, "root"),
        size=integer(document, "size"),
        uuid=optional(document, "uuid", text),
        change_id=optional(document, "change_id", text),
        base=None if base is None else PointId(base),
    )


def _disk(document: Document) -> DiskProgress:
    return DiskProgress(
        kind=choice(document, "kind", get_args(IngestKind)),
        reason=text(document, "reason"),
        block_size=integer(document, "block_size"),
        wanted=text(document, "wanted"),
        checkpoints=tuple(map(_checkpoint, items(document, "marks"))),
        full_reason=optional(document, "full_reason", full_reason_in),
    )


def _checkpoint(document: Document) -> Checkpoint:
    counts = mapping(document, "counts")
    return Checkpoint(
        leaf=integer(document, "leaf"),
        root=digest_of(document, "root"),
        data_blocks=integer(document, "data_blocks"),
        counts=Counts(**{member.name: integer(counts, member.name) for member in fields(Counts)}),
    )
