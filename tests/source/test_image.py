"""Raw files and devices: holes, refused file types, and concurrent writers."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cbtfs.core.extent import Extent, total
from cbtfs.errors import SourceMismatch, SourceUnavailable, UsageError
from cbtfs.source.image import ImageSource
from cbtfs.source.wrappers import ChangingSource
from tests.source.implementations import write_sparse

MIB = 1 << 20


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


WRITERS: list[Callable[[Path], None]] = [overwrite, grow, shrink, touch]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "disk.raw", b"head" + bytes(MIB) + b"tail")


@pytest.fixture
def source(path: Path) -> Iterator[ImageSource]:
    with closing(ImageSource(path)) as opened:
        yield opened


def test_holes_are_not_allocated(source: ImageSource) -> None:
    assert total(source.allocated()) < MIB // 8


def test_an_image_that_ends_in_a_hole_is_read_to_its_end(tmp_path: Path) -> None:
    with closing(ImageSource(write_sparse(tmp_path / "disk.raw", b"x" + bytes(MIB)))) as source:
        data = source.read(Extent(MIB - 5, 6))

    assert data == bytes(6)


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_changes_after_it_was_opened_is_not_confirmed(
    source: ImageSource, path: Path, write: Callable[[Path], None]
) -> None:
    write(path)

    with pytest.raises(SourceMismatch, match="allow-changing"):
        source.confirm()


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_may_change_is_confirmed(
    source: ImageSource, path: Path, write: Callable[[Path], None]
) -> None:
    write(path)

    ChangingSource(source).confirm()

    assert path.exists()


def test_the_error_of_a_truncated_file_has_its_length(source: ImageSource, path: Path) -> None:
    os.truncate(path, 1000)

    with pytest.raises(SourceUnavailable, match=f"ends at 1000 instead of {MIB + 8} bytes"):
        source.read(Extent(0, source.size))


def test_the_allocation_of_a_truncated_file_is_within_its_size(
    source: ImageSource, path: Path
) -> None:
    os.truncate(path, 1000)

    assert all(extent.end <= source.size for extent in source.allocated())


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="No such file"):
        ImageSource(tmp_path / "none.raw")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        ImageSource(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(UsageError, match="neither a file nor a block device"):
        ImageSource(tmp_path / "pipe")


def test_a_character_device_is_refused() -> None:
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        ImageSource(Path("/dev/zero"))


def test_a_name_with_control_characters_is_harmless_in_messages(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        ImageSource(tmp_path / "a\x1b[2J\nb")

    assert str(caught.value).isprintable()
