"""Small files of a VM are stored in a point beside its disks."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cbtfs.core.audit import Sampling
from cbtfs.core.manifest import Manifest
from cbtfs.errors import SourceUnavailable, UsageError
from cbtfs.ingest.capture import Progress
from cbtfs.ingest.inputs import DiskInput, LeaveOut, PointOptions, VmInput, all_or_nothing
from cbtfs.ingest.plan import Want
from cbtfs.ingest.point import ingest_point
from cbtfs.source.base import DiskSource
from cbtfs.source.content import ContentSource
from cbtfs.store.repository import writing
from tests.ingest.fake_disks import broken
from tests.make_points import BLOCK, EPOCH, new_repository, read_point
from tests.source.fake import FakeDisk

DISK = bytes(range(256)) * 64


def take(
    path: Path,
    disks: Mapping[str, DiskSource],
    files: Mapping[str, bytes],
    want: Want = "auto",
    leave_out: LeaveOut = all_or_nothing,
) -> tuple[Manifest, list[str]]:
    """Take a point; return its manifest and the labels passed to on_disk."""
    inputs = [
        DiskInput(label, source, label, change_id=getattr(source, "change_id", None))
        for label, source in disks.items()
    ]
    inputs += [
        DiskInput(label, ContentSource(content), f"file:{label}", "file")
        for label, content in files.items()
    ]
    reported: list[str] = []

    def on_disk(label: str, size: int) -> Progress:
        reported.append(label)
        return lambda _: None

    with writing(path) as repository:
        objects = repository.object_writer()
        try:
            options = PointOptions(EPOCH, want, Sampling(1.0), on_disk, leave_out)
            manifest = ingest_point(repository, objects, VmInput("vm"), inputs, options)
        finally:
            objects.close()
    return manifest, reported


@pytest.fixture
def disk() -> FakeDisk:
    made = FakeDisk(len(DISK))
    made.write(0, DISK)
    return made


def test_files_keep_their_bytes_and_do_not_make_a_point_a_full(
    tmp_path: Path, disk: FakeDisk
) -> None:
    path = new_repository(tmp_path / "r")
    files = {"a.vmx": b"memSize = 4\n", "a.nvram": bytes(3 * BLOCK) + b"\1", "empty": b""}
    first, _ = take(path, {"d": disk.take_snapshot()}, files)
    changed = {**files, "a.vmx": b"memSize = 8\n"}
    second, reported = take(path, {"d": disk.take_snapshot()}, changed)

    assert read_point(path, first) == {"d": DISK, **files}
    assert read_point(path, second) == {"d": DISK, **changed}
    assert (first.kind, second.kind) == ("full", "incremental")
    assert [record.size for record in second.of_kind("file")] == [12, 3 * BLOCK + 1, 0]
    assert [record.counts.new_bytes for record in second.of_kind("file")] == [BLOCK, 0, 0]
    assert reported == ["d"]


def test_a_new_file_is_read_even_if_fulls_are_forbidden(tmp_path: Path, disk: FakeDisk) -> None:
    path = new_repository(tmp_path / "r")
    take(path, {"d": disk.take_snapshot()}, {})
    manifest, _ = take(path, {"d": disk.take_snapshot()}, {"a.vmx": b"x"}, want="incremental")

    assert manifest.kind == "incremental"
    assert "first restore point" in manifest.of_kind("file")[0].reason
    assert manifest.reason.startswith("changes since")


def test_a_point_needs_a_disk(tmp_path: Path, disk: FakeDisk) -> None:
    path = new_repository(tmp_path / "r")
    with pytest.raises(UsageError, match="needs a disk"):
        take(path, {}, {"a.vmx": b"x"})
    breaking = {"d": broken(disk.take_snapshot())}
    with pytest.raises(SourceUnavailable):
        take(path, breaking, {"a.vmx": b"x"}, leave_out=lambda *_: True)
