"""No descriptor of a repository stays open after its block, even while a traceback is kept."""

import os
from pathlib import Path

import pytest

from cbtfs.core.frame import Kind
from cbtfs.errors import StoreFailed
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import reading, writing
from tests.make_points import BLOCK, add_point, new_repository


def open_below(path: Path) -> list[str]:
    """Return the open files and directories of this process below *path*."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # The descriptor of the listing itself.
    return [target for target in targets if Path(target).is_relative_to(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = new_repository(tmp_path / "repository")
    add_point(path, {"disk": os.urandom(3 * BLOCK)})
    return path


def fail_while_writing(path: Path, *, is_flushed: bool) -> None:
    content = os.urandom(BLOCK)
    with writing(path) as repository:
        objects = repository.object_writer()
        try:
            encoded = Encoder().encode(Kind.CHUNK, 0, chunk_digest(content), content)
            objects.put_chunk(encoded)
            if is_flushed:
                objects.flush()
            raise StoreFailed("no space left")
        finally:
            objects.close()


def fail_while_reading(path: Path) -> None:
    with reading(path) as repository:
        (pack,) = repository.packs.ids()
        repository.packs.open(pack)
        raise KeyError(pack)


@pytest.mark.parametrize("is_flushed", [False, True])
def test_a_failed_writer_leaves_no_descriptor(path: Path, is_flushed: bool) -> None:
    with pytest.raises(StoreFailed) as failure:
        fail_while_writing(path, is_flushed=is_flushed)

    assert failure.value.__traceback__ is not None
    assert open_below(path) == []


def test_a_failed_reader_leaves_no_descriptor(path: Path) -> None:
    with pytest.raises(KeyError) as failure:
        fail_while_reading(path)

    assert failure.value.__traceback__ is not None
    assert open_below(path) == []


def test_a_writer_that_fails_to_open_leaves_no_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreFailed("no space left")

    monkeypatch.setattr("cbtfs.store.catalog_opening.catch_up", fail)

    with pytest.raises(StoreFailed) as failure, writing(path):
        pass

    assert failure.value.__traceback__ is not None
    assert open_below(path) == []


def test_a_closed_directory_cannot_be_used(path: Path) -> None:
    with reading(path) as repository:
        points = repository.points

    with pytest.raises(RuntimeError, match="points is closed"):
        points.ids()
    points.close()
