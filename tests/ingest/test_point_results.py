"""take_point() returns one result per disk and commits nothing; commit_point() commits once."""

from pathlib import Path

from cbtfs.errors import SourceUnavailable
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import CapturedDisk, OmittedDisk, commit_point, take_point
from cbtfs.store.repository import writing
from tests.ingest.fake_disks import broken, disk_of, points
from tests.make_points import BLOCK, EPOCH, new_repository, read_point

CONTENT = b"1" * (5 * BLOCK)


def test_a_point_exists_only_after_its_commit_with_the_document_given_there(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    disks = [
        DiskInput("bad", broken(disk_of(CONTENT).take_snapshot()), "bad"),
        DiskInput("good", disk_of(CONTENT).take_snapshot(), "good"),
    ]
    options = PointOptions(EPOCH, leave_out=lambda disk, error: disk.label == "bad")
    before = points(path)
    with writing(path) as repository:
        objects = repository.object_writer()
        try:
            taken = take_point(repository, objects, VmInput("vm"), disks, options)
            between = points(path)
            document = {"left_out": [omitted.disk.label for omitted in taken.omitted]}
            manifest = commit_point(repository, objects, taken, document)
        finally:
            objects.close()

    omitted, captured = taken.results
    assert isinstance(omitted, OmittedDisk)
    assert (omitted.disk, type(omitted.error)) == (disks[0], SourceUnavailable)
    assert isinstance(captured, CapturedDisk)
    assert (captured.disk, captured.record) == (disks[1], manifest.disks[0])
    assert between == before
    assert manifest.metadata == {"left_out": ["bad"]}
    assert read_point(path, manifest) == {"good": CONTENT}
