"""Planted files in a repository are refused, and nothing outside the repository is touched."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cbtfs import listing
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError, DataCorrupt, RepositoryNotFound, UsageError
from cbtfs.store.files import load_file, open_regular
from cbtfs.store.repository import create_repository, reading, writing
from cbtfs.store.settings import new_settings
from tests.make_points import add_point, new_repository, read_image

IMAGE = b"an image" * 1000

Plant = Callable[[Path, Path], None]


def plant_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def plant_dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nothing"))


def plant_fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def plant_folder(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "inner").write_bytes(b"inner")


PLANTS = [plant_link, plant_dangling_link, plant_fifo, plant_folder]
PLACES = [
    "repository.json",
    "pack",
    "manifest",
    "state",
    "data.mdb",
    "lock.mdb",
    "writer",
    "state.tmp",
    "open pack",
    "catalog",
    "catalog.damaged",
    "pack folder",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo")


@pytest.fixture
def point(path: Path) -> Manifest:
    return add_point(path, {"disk": IMAGE})


def place_of(path: Path, point: Manifest, place: str) -> Path:
    (pack,) = path.glob("packs/*/*")
    return {
        "repository.json": path / "repository.json",
        "pack": pack,
        "manifest": path / "points" / point.point,
        "state": path / "points" / f"{point.point}.state",
        "data.mdb": path / "catalog" / "data.mdb",
        "lock.mdb": path / "catalog" / "lock.mdb",
        "writer": path / "locks" / "writer",
        "state.tmp": path / "points" / f"{point.point}.state.tmp",
        "open pack": pack.with_name("0" * 32 + ".open"),
        "catalog": path / "catalog",
        "catalog.damaged": path / "catalog.damaged",
        "pack folder": pack.parent,
    }[place]


def use(path: Path, point: Manifest) -> None:
    """Read the point, list, open for writing and commit; each succeeds or is refused."""
    with suppress(CbtfsError), reading(path) as repository:
        assert read_image(repository, point.disks[0]) == IMAGE
        with repository.catalog.view() as view:
            assert [item.manifest for item in listing.points(view)] == [point]
    with suppress(CbtfsError):
        add_point(path, {"disk": IMAGE + b"new"})


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("place", PLACES)
def test_planted_files_are_refused_and_not_followed(
    path: Path, point: Manifest, place: str, plant: Plant, tmp_path: Path
) -> None:
    target = place_of(path, point, place)
    outside = tmp_path / "outside"
    if target.is_dir():
        shutil.move(target, outside)
    elif place == "catalog.damaged":
        outside.mkdir()
        (outside / "precious").write_bytes(b"precious")
    else:
        outside.write_bytes(target.read_bytes() if target.exists() else b"precious")
        target.unlink(missing_ok=True)
    before = snapshot(outside)
    plant(target, outside)
    if place == "catalog.damaged":
        os.truncate(path / "catalog" / "data.mdb", 5000)

    use(path, point)

    assert snapshot(outside) == before
    assert not (tmp_path / "nothing").exists()


def snapshot(path: Path) -> dict[str, bytes]:
    """Return every file at or below *path* with its content."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("plant", PLANTS)
def test_only_regular_files_are_opened(tmp_path: Path, plant: Plant) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    plant(tmp_path / "planted", tmp_path / "outside")

    with pytest.raises(DataCorrupt, match="regular file"):
        os.close(open_regular(tmp_path / "planted"))


def test_a_device_is_not_opened() -> None:
    with pytest.raises(DataCorrupt, match="not a regular file"):
        open_regular(Path("/dev/null"))


def test_a_file_is_loaded_up_to_one_byte_more_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 100)

    assert load_file(tmp_path / "long", 10) == b"x" * 11


MODES = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
from tests.make_points import add_point, new_repository
path = new_repository(Path(sys.argv[1]))
add_point(path, {"disk": b"x" * 9000})
(path / "catalog" / "data.mdb").write_bytes(b"")
add_point(path, {"disk": b"y" * 9000})
"""


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_nobody_else_may_read_a_repository_whatever_the_umask(tmp_path: Path, umask: str) -> None:
    path = tmp_path / "repo"
    subprocess.run([sys.executable, "-c", MODES, str(path), umask], check=True)
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in [path, *path.rglob("*")]}

    assert {mode for file, mode in modes.items() if file.is_dir()} == {0o700}
    assert {mode for file, mode in modes.items() if not file.is_dir()} == {0o600}


def test_a_repository_is_not_created_over_another(path: Path) -> None:
    with pytest.raises(UsageError, match="already"):
        create_repository(path, new_settings(4096, 1))


def test_a_repository_is_not_created_in_a_directory_with_files(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()

    with pytest.raises(UsageError, match="empty"):
        create_repository(tmp_path, new_settings(4096, 1))


def test_a_repository_is_created_in_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(0o755)
    create_repository(tmp_path / "empty", new_settings(4096, 1))

    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["nothing", "file/below"])
def test_the_error_names_a_path_without_a_repository(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RepositoryNotFound, match="no repository"), reading(tmp_path / name):
        pass
    with pytest.raises(RepositoryNotFound, match="no repository"), writing(tmp_path / name):
        pass
