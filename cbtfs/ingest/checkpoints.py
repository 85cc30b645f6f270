"""Record how far each disk of a VM is captured, so that a later run can resume.

A checkpoint names the tree of the leaves captured so far. It is stored with the record of the run,
not in the repository. A later run ignores a checkpoint whose tree is not in the repository.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cbtfs.core.blockmap import FANOUT, Shape, Tree
from cbtfs.core.extent import Extent, clip, total
from cbtfs.core.frame import Kind
from cbtfs.core.ids import NULL_DIGEST, Digest, Ref
from cbtfs.core.progress import (
    Checkpoint,
    DiskProgress,
    RunProgress,
    digest_of_extents,
    encode_progress,
)
from cbtfs.core.reasons import FullReason
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.ingest.capture import Captured, OnCheckpoint
from cbtfs.ingest.plan import Plan, Want
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS: Final = 10.0
"""Interval between checkpoints. A later run reads again what was read after the last one."""
_KEPT: Final = 3
"""Checkpoints recorded per disk. Only the oldest must be in a closed pack, so checkpoints do not
force packs to be closed while packs fill by themselves."""


class Checkpoints:
    """The checkpoints of one run on one VM; for one thread."""

    def __init__(
        self,
        repository: Repository,
        objects: ObjectWriter,
        save: Callable[[bytes], None],
        progress: RunProgress,
        seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """*save* stores the progress; *progress* may contain that of an interrupted run."""
        self._repository = repository
        self._objects = objects
        self._save = save
        self._progress = progress
        self._seconds = seconds
        self._saved = time.monotonic()
        self.not_read_bytes: dict[str, int] = {}
        """Bytes that the interrupted run had read and this run did not, by label of the disk."""

    def of_disk(self, identity: str, label: str) -> "DiskCheckpoints":
        return DiskCheckpoints(self, identity, label)

    def progress(self, identity: str) -> DiskProgress | None:
        return self._progress.disks.get(identity)

    def put(self, identity: str, disk: DiskProgress) -> None:
        """Replace the progress of a disk; the next checkpoint saves it."""
        self._progress = replace(self._progress, disks={**self._progress.disks, identity: disk})

    def is_due(self) -> bool:
        """Return whether the interval since the last checkpoint of any disk has passed."""
        return time.monotonic() - self._saved >= self._seconds

    def add(self, identity: str, disk: DiskProgress, checkpoint: Checkpoint, shape: Shape) -> None:
        """Add *checkpoint* to *disk* and save all; the oldest that is kept is in closed packs."""
        if len(disk.checkpoints) >= _KEPT and not self.is_durable(disk.checkpoints[1].root, shape):
            self._objects.flush()
        self.put(identity, disk.with_checkpoint(checkpoint, _KEPT))
        self._save(encode_progress(self._progress))
        self._saved = time.monotonic()

    def is_durable(self, root: Digest, shape: Shape) -> bool:
        """Return whether the tree with that root is complete in closed packs."""
        if root == NULL_DIGEST:
            return True
        with self._repository.catalog.view() as view:
            return view.find(Kind.NODE, shape.height, root) is not None

    def is_intact(self, tree: Tree[Ref]) -> bool:
        """Return whether no chunk of the tree is in quarantine."""
        if not self._objects.has_bad:
            return True
        corrupt = tree.blocks_of(self._objects.is_bad)
        return next(corrupt, None) is None


@dataclass(frozen=True, slots=True)
class Start:
    """The state from which the capture of a disk begins."""

    extents: list[Extent]
    """Extents to read."""
    base: Tree[Ref] | None
    data_blocks: int
    """Number of blocks of *base* that hold data."""
    checkpoint: Checkpoint | None = None

    def whole(self, captured: Captured) -> Captured:
        """Return *captured* with the counts of the interrupted run added."""
        if self.checkpoint is None:
            return captured
        before, after = self.checkpoint.counts, captured.counts
        counts = replace(
            after,
            written_blocks=before.written_blocks + after.written_blocks,
            zero_blocks=before.zero_blocks + after.zero_blocks,
            new_bytes=before.new_bytes + after.new_bytes,
            stored_bytes=before.stored_bytes + after.stored_bytes,
        )
        return replace(captured, counts=counts)


class DiskCheckpoints:
    """The checkpoints of one disk."""

    def __init__(self, checkpoints: Checkpoints, identity: str, label: str) -> None:
        self._checkpoints = checkpoints
        self._identity = identity
        self._label = label

    def adopt(self, plan: Plan, want: Want) -> Plan:
        """Return *plan*, or a full if the interrupted run had begun one."""
        progress = self._checkpoints.progress(self._identity)
        is_begun = progress is not None and progress.kind == "full" and progress.checkpoints
        if not is_begun or plan.kind == "full" or want == "incremental":
            return plan
        assert progress is not None
        full_reason = progress.full_reason or FullReason.OTHER
        return Plan("full", progress.reason, None, plan.listed, full_reason)

    def begin(self, plan: Plan, shape: Shape, start: Start, reader: Reader) -> Start:
        """Return *start*, or the last usable checkpoint of an interrupted run with this plan."""
        disk = DiskProgress(
            plan.kind,
            plan.reason,
            shape.block_size,
            digest_of_extents(start.extents),
            full_reason=plan.full_reason,
        )
        resumed = self._resume(disk, shape, start, reader)
        self._checkpoints.not_read_bytes.pop(self._label, None)
        if resumed.checkpoint is not None:
            disk = replace(disk, checkpoints=(resumed.checkpoint,))
            not_read_bytes = total(start.extents) - total(resumed.extents)
            self._checkpoints.not_read_bytes[self._label] = not_read_bytes
        self._checkpoints.put(self._identity, disk)
        return resumed

    def _resume(self, disk: DiskProgress, shape: Shape, start: Start, reader: Reader) -> Start:
        progress = self._checkpoints.progress(self._identity)
        if progress is None:
            return start
        bare = replace(progress, checkpoints=(), reason=disk.reason, full_reason=disk.full_reason)
        if bare != disk:
            return start
        for checkpoint in reversed(progress.checkpoints):
            if not 0 < checkpoint.leaf <= shape.leaves or not self._checkpoints.is_durable(
                checkpoint.root, shape
            ):
                continue
            try:
                tree = reader.tree(checkpoint.root, shape)
                tree.children(1, checkpoint.leaf - 1)
                if not self._checkpoints.is_intact(tree):
                    continue
            except (ChunkMissing, DataCorrupt) as exc:
                log.warning("a checkpoint of the interrupted run cannot be used: %s", exc)
                continue
            at = checkpoint.leaf * FANOUT * shape.block_size
            rest = list(clip(start.extents, at, max(at, shape.size)))
            return Start(rest, tree, checkpoint.data_blocks, checkpoint)
        return start

    def on_checkpoint(self, shape: Shape, start: Start) -> OnCheckpoint | None:
        """Return the callback of the capture; None if the disk cannot have checkpoints."""
        if start.base is not None and start.base.blocks != shape.blocks:
            return None

        def save_if_due(leaf: int, so_far: Callable[[], Captured]) -> None:
            if self._checkpoints.is_due():
                checkpoint = _checkpoint(leaf, start.whole(so_far()))
                self._checkpoints.add(self._identity, self._progress, checkpoint, shape)

        return save_if_due

    def finish(self, captured: Captured, shape: Shape) -> None:
        """Record that the disk is complete; the next checkpoint of any disk saves it."""
        checkpoint = _checkpoint(shape.leaves, captured)
        self._checkpoints.put(self._identity, self._progress.with_checkpoint(checkpoint, _KEPT + 1))

    @property
    def _progress(self) -> DiskProgress:
        progress = self._checkpoints.progress(self._identity)
        assert progress is not None, "begin() was not called"
        return progress


def _checkpoint(leaf: int, captured: Captured) -> Checkpoint:
    return Checkpoint(leaf, captured.root, captured.data_blocks, captured.counts)
