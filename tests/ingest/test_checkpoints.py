"""The oldest recorded checkpoint of a disk is durable."""

from pathlib import Path

from cbtfs.core.blockmap import Shape
from cbtfs.core.ids import Digest
from cbtfs.core.manifest import Counts
from cbtfs.core.progress import Checkpoint, DiskProgress, HeldSnapshot, RunProgress
from cbtfs.ingest.checkpoints import Checkpoints
from cbtfs.store.repository import writing
from tests.make_points import BLOCK, new_repository


def test_packs_are_closed_before_the_last_durable_checkpoint_is_dropped(
    tmp_path: Path,
) -> None:
    shape = Shape(100 * BLOCK, BLOCK)
    held = HeldSnapshot("name", "snapshot-1", "2026-01-01T00:00:00Z", False, "", None, (), ())
    flushes = []
    with writing(new_repository(tmp_path / "repo")) as repository:
        objects = repository.object_writer()
        objects.flush = lambda: flushes.append(len(disk.checkpoints))  # type: ignore[method-assign]
        checkpoints = Checkpoints(repository, objects, lambda _: None, RunProgress("r", held))
        disk = DiskProgress("full", "", BLOCK, "")
        for leaf in range(5):
            checkpoint = Checkpoint(leaf, Digest(bytes([leaf + 1]) * 32), 0, Counts())
            checkpoints.add("disk", disk, checkpoint, shape)
            progress = checkpoints.progress("disk")
            assert progress is not None
            disk = progress

    assert flushes == [3, 3]
    assert [checkpoint.leaf for checkpoint in disk.checkpoints] == [2, 3, 4]
