"""Marks on the way: how far each disk of a VM is captured, for a run that takes over from this one.

A mark names the tree of what is captured so far. It is kept on record beside the run's own record,
not in the repository: a mark whose tree the repository does not have is passed over.
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
    DiskProgress,
    Mark,
    RunProgress,
    digest_of_extents,
    encode_progress,
)
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.ingest.capture import Captured, Reached
from cbtfs.ingest.plan import Plan, Want
from cbtfs.reader import Reader
from cbtfs.store.repository import Repository
from cbtfs.store.writer import ObjectWriter

log = logging.getLogger(__name__)

MARK_SECONDS: Final = 10.0
"""Between two marks: what a killed run read after its last one is read again."""
_KEPT: Final = 3
"""Marks of a disk on record. Only the oldest is seen to be in a closed pack: so packs need not be
closed for the sake of marks, as long as they fill anyway."""


class Marks:
    """The marks of one run on one VM; for one thread."""

    def __init__(
        self,
        repository: Repository,
        objects: ObjectWriter,
        save: Callable[[bytes], None],
        progress: RunProgress,
        seconds: float = MARK_SECONDS,
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

    def of_disk(self, identity: str, label: str) -> "DiskMarks":
        return DiskMarks(self, identity, label)

    def progress(self, identity: str) -> DiskProgress | None:
        return self._progress.disks.get(identity)

    def put(self, identity: str, disk: DiskProgress) -> None:
        """Let *disk* be the progress of a disk, saved with the next mark."""
        self._progress = replace(self._progress, disks={**self._progress.disks, identity: disk})

    def is_due(self) -> bool:
        """Whether it is time for another mark, of whatever disk."""
        return self._clock() - self._marked >= self._seconds

    def add(self, identity: str, disk: DiskProgress, mark: Mark, shape: Shape) -> None:
        """Put *mark* to those of *disk* and save all; one that lasts stays among them."""
        if len(disk.marks) >= _KEPT and not self.stands(disk.marks[1].root, shape):
            self._objects.flush()
        self.put(identity, disk.reaching(mark, _KEPT))
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
    mark: Mark | None = None

    def whole(self, captured: Captured) -> Captured:
        """What is captured from here on, with what was before."""
        if self.mark is None:
            return captured
        before, after = self.mark.counts, captured.counts
        counts = replace(
            after,
            written_blocks=before.written_blocks + after.written_blocks,
            zero_blocks=before.zero_blocks + after.zero_blocks,
            new_bytes=before.new_bytes + after.new_bytes,
            stored_bytes=before.stored_bytes + after.stored_bytes,
        )
        return replace(captured, counts=counts)


class DiskMarks:
    """The marks of one disk."""

    def __init__(self, marks: Marks, identity: str, label: str) -> None:
        self._marks = marks
        self._identity = identity
        self._label = label

    def adopt(self, plan: Plan, want: Want) -> Plan:
        """*plan*, or the whole read that an earlier run found to be needed and began."""
        found = self._marks.progress(self._identity)
        is_begun = found is not None and found.kind == "full" and found.marks
        if not is_begun or plan.kind == "full" or want == "incremental":
            return plan
        assert found is not None
        return Plan("full", found.reason, None, plan.told)

    def begin(self, plan: Plan, shape: Shape, start: Start, reader: Reader) -> Start:
        """*start*, or the last mark of an earlier run that did the very same."""
        disk = DiskProgress(
            plan.kind, plan.reason, shape.block_size, digest_of_extents(start.wanted)
        )
        found = self._find(disk, shape, start, reader)
        self._marks.not_read_bytes.pop(self._label, None)
        if found.mark is not None:
            disk = replace(disk, marks=(found.mark,))
            self._marks.not_read_bytes[self._label] = total(start.wanted) - total(found.wanted)
        self._marks.put(self._identity, disk)
        return found

    def _find(self, disk: DiskProgress, shape: Shape, start: Start, reader: Reader) -> Start:
        found = self._marks.progress(self._identity)
        if found is None or replace(found, marks=(), reason=disk.reason) != disk:
            return start
        for mark in reversed(found.marks):
            if not 0 < mark.leaf <= shape.leaves or not self._marks.stands(mark.root, shape):
                continue
            try:
                tree = reader.tree(mark.root, shape)
                tree.children(1, mark.leaf - 1)
                if not self._marks.is_sound(tree):
                    continue
            except (ChunkMissing, DataCorrupt) as exc:
                log.warning("what an earlier run captured cannot be used: %s", exc)
                continue
            at = mark.leaf * FANOUT * shape.block_size
            rest = list(clip(start.wanted, at, max(at, shape.size)))
            return Start(rest, tree, mark.data_blocks, mark)
        return start

    def reached(self, shape: Shape, start: Start) -> Reached | None:
        """Who is told how far the capture is; None if marks of it cannot be made."""
        if start.base is not None and start.base.blocks != shape.blocks:
            return None

        def told(leaf: int, so_far: Callable[[], Captured]) -> None:
            if self._marks.is_due():
                mark = _mark(leaf, start.whole(so_far()))
                self._marks.add(self._identity, self._progress, mark, shape)

        return told

    def finish(self, captured: Captured, shape: Shape) -> None:
        """All of the disk is captured, which the next mark, of whatever disk, will tell."""
        mark = _mark(shape.leaves, captured)
        self._marks.put(self._identity, self._progress.reaching(mark, _KEPT + 1))

    @property
    def _progress(self) -> DiskProgress:
        found = self._marks.progress(self._identity)
        assert found is not None, "it was not begun"
        return found


def _mark(leaf: int, captured: Captured) -> Mark:
    return Mark(leaf, captured.root, captured.data_blocks, captured.counts)
