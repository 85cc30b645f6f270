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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*progress* may hold what an earlier run left of the same snapshot."""
        self._repository = repository
        self._objects = objects
        self._save = save
        self._progress = progress
        self._seconds = seconds
        self._clock = clock
        self._marked = clock()
        self.not_read_bytes: dict[str, int] = {}
        """By the label of a disk: what did not have to be read again."""

    def of_disk(self, identity: str, label: str) -> "DiskCheckpoints":
        return DiskCheckpoints(self, identity, label)

    def progress(self, identity: str) -> DiskProgress | None:
        return self._progress.disks.get(identity)

    def put(self, identity: str, disk: DiskProgress) -> None:
        """Let *disk* be the progress of a disk, saved with the next checkpoint."""
        self._progress = replace(self._progress, disks={**self._progress.disks, identity: disk})

    def is_due(self) -> bool:
        """Whether it is time for another checkpoint, of whatever disk."""
        return self._clock() - self._marked >= self._seconds

    def add(self, identity: str, disk: DiskProgress, checkpoint: Checkpoint, shape: Shape) -> None:
        """Put *checkpoint* to those of *disk* and save all; one that lasts stays among them."""
        if len(disk.checkpoints) >= _KEPT and not self.stands(disk.checkpoints[1].root, shape):
            self._objects.flush()
        self.put(identity, disk.with_checkpoint(checkpoint, _KEPT))
        self._save(encode_progress(self._progress))
        self._marked = self._clock()

    def stands(self, root: Digest, shape: Shape) -> bool:
        """Whether the repository has the tree of that root, in packs that last."""
        if root == NULL_DIGEST:
            return True
        with self._repository.catalog.view() as view:
            return view.find(Kind.NODE, shape.height, root) is not None

    def is_sound(self, tree: Tree[Ref]) -> bool:
        """Whether nothing of a tree is in quarantine, as far as anything is."""
        if not self._objects.has_bad:
            return True
        bad = tree.blocks_of(lambda ref: self._objects.is_bad(ref.digest))
        return next(bad, None) is None


@dataclass(frozen=True, slots=True)
class Start:
    """Where the capture of a disk begins."""

    wanted: list[Extent]
    base: Tree[Ref] | None
    data_blocks: int
    """Of the base."""
    checkpoint: Checkpoint | None = None

    def whole(self, captured: Captured) -> Captured:
        """What is captured from here on, with what was before."""
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
        """*plan*, or the whole read that an earlier run found to be needed and began."""
        found = self._checkpoints.progress(self._identity)
        is_begun = found is not None and found.kind == "full" and found.checkpoints
        if not is_begun or plan.kind == "full" or want == "incremental":
            return plan
        assert found is not None
        return Plan("full", found.reason, None, plan.listed, found.full_reason or FullReason.OTHER)

    def begin(self, plan: Plan, shape: Shape, start: Start, reader: Reader) -> Start:
        """*start*, or the last checkpoint of an earlier run that did the very same."""
        disk = DiskProgress(
            plan.kind,
            plan.reason,
            shape.block_size,
            digest_of_extents(start.wanted),
            full_reason=plan.full_reason,
        )
        found = self._find(disk, shape, start, reader)
        self._checkpoints.not_read_bytes.pop(self._label, None)
        if found.checkpoint is not None:
            disk = replace(disk, checkpoints=(found.checkpoint,))
            self._checkpoints.not_read_bytes[self._label] = total(start.wanted) - total(
                found.wanted
            )
        self._checkpoints.put(self._identity, disk)
        return found

    def _find(self, disk: DiskProgress, shape: Shape, start: Start, reader: Reader) -> Start:
        found = self._checkpoints.progress(self._identity)
        if found is None:
            return start
        bare = replace(found, checkpoints=(), reason=disk.reason, full_reason=disk.full_reason)
        if bare != disk:
            return start
        for checkpoint in reversed(found.checkpoints):
            if not 0 < checkpoint.leaf <= shape.leaves or not self._checkpoints.stands(
                checkpoint.root, shape
            ):
                continue
            try:
                tree = reader.tree(checkpoint.root, shape)
                tree.children(1, checkpoint.leaf - 1)
                if not self._checkpoints.is_sound(tree):
                    continue
            except (ChunkMissing, DataCorrupt) as exc:
                log.warning("what an earlier run captured cannot be used: %s", exc)
                continue
            at = checkpoint.leaf * FANOUT * shape.block_size
            rest = list(clip(start.wanted, at, max(at, shape.size)))
            return Start(rest, tree, checkpoint.data_blocks, checkpoint)
        return start

    def on_checkpoint(self, shape: Shape, start: Start) -> OnCheckpoint | None:
        """Who is told how far the capture is; None if checkpoints of it cannot be made."""
        if start.base is not None and start.base.blocks != shape.blocks:
            return None

        def told(leaf: int, so_far: Callable[[], Captured]) -> None:
            if self._checkpoints.is_due():
                checkpoint = _checkpoint(leaf, start.whole(so_far()))
                self._checkpoints.add(self._identity, self._progress, checkpoint, shape)

        return told

    def finish(self, captured: Captured, shape: Shape) -> None:
        """All of the disk is captured, which the next checkpoint, of whatever disk, will tell."""
        checkpoint = _checkpoint(shape.leaves, captured)
        self._checkpoints.put(self._identity, self._progress.with_checkpoint(checkpoint, _KEPT + 1))

    @property
    def _progress(self) -> DiskProgress:
        found = self._checkpoints.progress(self._identity)
        assert found is not None, "it was not begun"
        return found


def _checkpoint(leaf: int, captured: Captured) -> Checkpoint:
    return Checkpoint(leaf, captured.root, captured.data_blocks, captured.counts)
