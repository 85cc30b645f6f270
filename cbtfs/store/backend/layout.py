"""Where the parts of a repository are: the only module that maps a repository to backends."""

from pathlib import Path
from typing import Final

from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.backend.local import Directory, ShardedDirectory
from cbtfs.store.files import load_file, make_folder, put_if_absent, replace
from cbtfs.store.folder import Folder, open_folder

PACKS: Final = "packs"
POINTS: Final = "points"
OVERLAYS: Final = "overlays"
INDEXES: Final = "indexes"


def open_packs(repository: Path) -> Backend:
    """Return the packs of a repository; DataCorrupt if their directory is missing or a link."""
    return ShardedDirectory(open_folder(repository / PACKS))


def open_points(repository: Path) -> FileBackend:
    """Return the points of a repository; DataCorrupt if their directory is missing or a link."""
    return Directory(open_folder(repository / POINTS))


def open_pins(repository: Path) -> FileBackend:
    """Return the pins of a repository.

    Raises:
        FileNotFoundError: there is no directory of pins.
        DataCorrupt: it is a link.
    """
    return Directory(Folder(repository / OVERLAYS))


def open_indexes(repository: Path) -> FileBackend:
    """Return the indexes of files of a repository.

    Raises:
        FileNotFoundError: there is no directory of indexes.
        DataCorrupt: it is a link.
    """
    return Directory(Folder(repository / INDEXES))


def open_directory(repository: Path, name: str) -> FileBackend:
    """Return points/ or packs/ itself, which have a marker.

    Raises:
        FileNotFoundError: it does not exist.
        DataCorrupt: it is a link.
    """
    return Directory(Folder(repository / name))


def has_directory(repository: Path, name: str) -> bool:
    """Return whether points/ or packs/ exists."""
    return (repository / name).is_dir()


def make_pins(repository: Path) -> None:
    """Create the place of pins durably, unless it exists."""
    make_folder(repository / OVERLAYS)


def make_indexes(repository: Path) -> None:
    """Create the place of indexes durably, unless it exists."""
    make_folder(repository / INDEXES)


def load_record(repository: Path, name: str, limit: int) -> bytes:
    """Return the bytes of settings or of a record of a repository, at most *limit* + 1.

    Raises:
        FileNotFoundError: it does not exist.
        NotADirectoryError: the repository is not a directory.
        DataCorrupt: it is not a regular file, or it cannot be read.
    """
    return load_file(repository / name, limit)


def has_record(repository: Path, name: str) -> bool:
    """Return whether a repository has this record."""
    return (repository / name).exists()


def create_record(repository: Path, name: str, data: bytes) -> None:
    """Create settings durably; FileExistsError if they exist."""
    put_if_absent(repository / name, data)


def save_record(repository: Path, name: str, data: bytes) -> None:
    """Create or replace settings or a record durably; a crash leaves the old or the new one."""
    replace(repository / name, data)


def create_places(repository: Path) -> None:
    """Create the places of packs and points durably, unless they exist."""
    for name in (PACKS, POINTS):
        make_folder(repository / name)
