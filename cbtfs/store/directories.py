"""Markers that prove that points/ and packs/ are the repository's own directories.

A directory whose file system is not mounted looks like one whose files were all removed. A prune
would then remove every pack. So each of the two has a sealed marker with the repository's id.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cbtfs.core.fields import id_of, text
from cbtfs.core.ids import PackId, PointId
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import DataCorrupt, RepositoryNotFound, WrongDirectory
from cbtfs.store.backend.layout import has_directory, open_directory
from cbtfs.store.backend.remote import is_remote, remote_of, require_same
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog.view import POINTS_SCHEMAS
from cbtfs.store.folder import MARKER, MAX_MARKER_BYTES
from cbtfs.store.packs import open_pack_folder
from cbtfs.store.point_folder import open_point_folder
from cbtfs.store.storing import storing

FORMAT: Final = "cbtfs directory"
Directory = Literal["points", "packs"]
DIRECTORIES: Final[tuple[Directory, ...]] = ("packs", "points")
"""Order in which markers are written: a crash may leave points/ without one, never packs/."""
_OURS: Final = "if it is, run 'cbtfs repair --create-markers'"


class DamagedMarker(WrongDirectory):
    """Raised when a marker exists and fails its checksum."""


@dataclass(frozen=True, slots=True)
class Known:
    """The points and packs that a catalog knows."""

    points: frozenset[PointId]
    """Points without the forgotten ones."""
    has_points: bool
    """Whether the catalog knows any point, forgotten or not."""
    packs: frozenset[PackId]
    is_new: bool
    """Whether nothing was ever stored in this repository, according to the catalog."""


def encode_marker(repository: str, directory: Directory) -> bytes:
    return seal({"format": FORMAT, "repository": repository, "directory": directory})


def write_marker(path: Path, repository: str, directory: Directory) -> None:
    """Write the marker of one directory of the repository at *path*."""
    with (
        storing(f"the marker of {directory}/"),
        closing(open_directory(path, directory)) as backend,
    ):
        backend.replace(MARKER, encode_marker(repository, directory))


def require_directories(path: Path, repository: str, *, is_suspect: bool) -> None:
    """Raise WrongDirectory unless points/ and packs/ belong to the repository with this id.

    Only for the writer. A repository that is older than markers gets them here if its catalog
    proves that these are the right directories. A catalog that *is_suspect* is verified before
    it is opened.
    """
    url = remote_of(path)
    if url is not None:
        require_same(path, url)
        return
    absent = absent_markers(path, repository)
    if absent:
        _refuse_unless_known(path, absent, is_suspect=is_suspect)
        for directory in absent:
            write_marker(path, repository, directory)


def check_directories(path: Path, repository: str) -> None:
    """Raise the errors of require_directories() without changing anything."""
    url = remote_of(path)
    if url is not None:
        require_same(path, url)
        return
    absent = absent_markers(path, repository)
    if absent:
        _refuse_unless_known(path, absent, is_suspect=False)


def absent_markers(path: Path, repository: str) -> list[Directory]:
    """Return the directories without a marker; WrongDirectory if a marker is another's."""
    return [name for name in DIRECTORIES if not has_marker(path, repository, name)]


def has_marker(path: Path, repository: str, directory: Directory) -> bool:
    """Return whether a directory has its marker.

    Raises:
        DamagedMarker: the marker fails its checksum.
        WrongDirectory: the marker belongs to another repository or directory.
        DataCorrupt: the directory is a symbolic link.
    """
    try:
        backend = open_directory(path, directory)
    except FileNotFoundError:
        return False
    try:
        with closing(backend):
            data = backend.get(MARKER, 0, MAX_MARKER_BYTES + 1).data
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise WrongDirectory(f"cannot read {directory}/{MARKER}: {exc.strerror}") from exc
    except DataCorrupt as exc:
        raise WrongDirectory(str(exc)) from exc
    try:
        document = unseal(data)
        owner = id_of(document, "repository"), text(document, "directory")
    except ValueError as exc:
        raise DamagedMarker(
            f"{directory}/{MARKER} is damaged: {exc}; check whether {directory}/ is this "
            f"repository's directory: {_OURS}"
        ) from exc
    if owner != (repository, directory):
        raise _wrong(directory, f"it has the marker of {owner[1]}/ of repository {owner[0]}")
    return True


def _wrong(directory: str, why: str) -> WrongDirectory:
    return WrongDirectory(
        f"{directory}/ is not this repository's directory: is its file system mounted? ({why})"
    )


def _refuse_unless_known(path: Path, absent: list[Directory], *, is_suspect: bool) -> None:
    first = "points" if "points" in absent else "packs"
    if "points" not in absent:
        raise _wrong("packs", f"it has no marker, and points/ has one; {_OURS}")
    for directory in DIRECTORIES:
        if not has_directory(path, directory):
            raise _wrong(directory, "there is no such directory")
    known = None if is_suspect and _is_damaged(path) else load_known(path)
    if known is None:
        raise _wrong(first, f"it has no marker, and there is no catalog to compare with; {_OURS}")
    with closing(open_point_folder(path)) as folder:
        present = folder.ids()
    with closing(open_pack_folder(path)) as pack_folder:
        packs = pack_folder.ids()
    if not known.has_points and (present or packs or not known.is_new or len(absent) == 1):
        # An empty directory and one that is not mounted look the same.
        raise _wrong(first, f"it has no marker, and the catalog knows no point; {_OURS}")
    gone = known.points - present
    if gone:
        raise _wrong(
            "points",
            f"it has no marker and lacks {len(gone)} of the {len(known.points)} points that the "
            "catalog knows",
        )
    if known.packs and not known.packs & packs:
        raise _wrong("packs", "it has no marker and lacks all packs that the catalog knows")


def _is_damaged(path: Path) -> bool:
    folder = path / "catalog"
    return (folder / gate.DATA).exists() and gate.verify(folder) is not None


def load_known(path: Path) -> Known | None:
    """Return points and packs that the catalog at *path* knows; None if it cannot be opened."""
    try:
        catalog = Catalog(path / "catalog", is_writable=False, schemas=POINTS_SCHEMAS)
    except (RepositoryNotFound, CatalogDamaged):
        return None
    try:
        with catalog.view() as view, closing(open_point_folder(path)) as folder:
            points = frozenset(view.point_ids())
            forgotten = folder.forgotten_ids() & points
            packs = frozenset(view.pack_numbers())
            is_new = not view.points_version and view.next_object() == 1 and not packs
            return Known(points - forgotten, bool(points), packs, is_new)
    except CatalogDamaged:
        return None
    finally:
        catalog.close()


def create_markers(path: Path, repository: str) -> list[Directory]:
    """Write the markers that are absent or damaged; return their directories.

    Only for the writer, after the user has confirmed that the directories are the right ones.

    Raises:
        WrongDirectory: a marker belongs to another repository, or a directory does not exist.
    """
    if is_remote(path):
        return []
    wanted: list[Directory] = []
    for directory in DIRECTORIES:
        if not has_directory(path, directory):
            raise _wrong(directory, "there is no such directory")
        try:
            if has_marker(path, repository, directory):
                continue
        except DamagedMarker:
            """Replaced: the user has examined the directory."""
        wanted.append(directory)
    for directory in wanted:
        write_marker(path, repository, directory)
    return wanted
