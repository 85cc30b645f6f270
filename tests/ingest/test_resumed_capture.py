"""A capture reports checkpoints, and a later capture resumes from any one."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.core.blockmap import FANOUT, Shape, Tree
from cbtfs.core.extent import Extent
from cbtfs.core.ids import Digest, Ref
from cbtfs.ingest.capture import Captured, CaptureOptions, OnCheckpoint, capture
from cbtfs.reader import Reader
from cbtfs.store.repository import writing
from tests.make_points import BLOCK, add_point, new_repository
from tests.source.fake import FakeDisk

LEAF = FANOUT * BLOCK
SIZE = 5 * LEAF + 3 * BLOCK


@pytest.mark.parametrize("is_based", [False, True])
def test_a_capture_resumes_from_any_leaf(tmp_path: Path, is_based: bool) -> None:
    rng = random.Random(1)
    path = new_repository(tmp_path / "r")
    old = FakeDisk(SIZE)
    for at in range(0, SIZE, 9 * BLOCK):
        old.write(at, rng.randbytes(5 * BLOCK))
    point = add_point(path, {"disk": bytes(old.content)}).disks[0]
    old.write(LEAF, bytes(LEAF))
    for at in range(0, SIZE, 20 * BLOCK):
        old.write(at, rng.randbytes(7 * BLOCK))
    source, shape = old.take_snapshot(), Shape(SIZE, BLOCK)
    with writing(path) as repository:
        tree = Reader(repository).disk(point).tree()
        objects = repository.object_writer()

        def take(
            extents: list[Extent],
            base: tuple[Tree[Ref] | None, int],
            on_checkpoint: OnCheckpoint | None = None,
        ) -> Captured:
            options = CaptureOptions(shape, extents, *base, tree)
            return capture(source, options, objects, lambda _: None, on_checkpoint)

        def tree_of(root: Digest) -> Tree[Ref]:
            objects.flush()
            return Reader(repository).tree(root, shape)

        base = (tree, point.data_blocks) if is_based else (None, 0)
        wanted = [Extent(0, 2 * LEAF), Extent(2 * LEAF + BLOCK, SIZE - 2 * LEAF - BLOCK)]
        checkpoints: list[tuple[int, Captured]] = []

        def keep(leaf: int, so_far: Callable[[], Captured]) -> None:
            checkpoints.append((leaf, so_far()))

        whole = take(wanted, base, keep)
        try:
            assert [leaf for leaf, _ in checkpoints] == [1, 2, 3, 4, 5, 6]
            for leaf, captured in checkpoints:
                rest = [part for extent in wanted for part in _beyond(extent, leaf * LEAF)]
                again = take(rest, (tree_of(captured.root), captured.data_blocks))
                assert (again.root, again.data_blocks) == (whole.root, whole.data_blocks)
                for name in ("read_bytes", "written_blocks", "zero_blocks"):
                    both = getattr(captured.counts, name) + getattr(again.counts, name)
                    assert both == getattr(whole.counts, name)
        finally:
            objects.close()


def _beyond(extent: Extent, start: int) -> list[Extent]:
    begin = max(extent.start, start)
    return [Extent(begin, extent.end - begin)] if begin < extent.end else []
