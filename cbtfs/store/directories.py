"""Whether points/ and packs/ are the repository's own directories, by the marker in each.

A directory whose file system is not mounted looks like one whose files were all removed: a prune
would then remove every pack. So each of the two holds a sealed marker with the repository's id.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cbtfs.core.fields import id_of, text
from cbtfs.core.ids import PackId, PointId
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import DataCorrupt, RepositoryNotFound, WrongDirectory
from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog.view import POINTS_SCHEMAS
from cbtfs.store.files import load_file, replace, storing
from cbtfs.store.folder import MARKER, MAX_MARKER_BYTES, Folder
from cbtfs.store.packs import PackFolder
from cbtfs.store.points import PointFolder

FORMAT: Final = "cbtfs directory"
Directory = Literal["points", "packs"]
DIRECTORIES: Final[tuple[Directory, ...]] = ("packs", "points")
"""In the order in which markers are written: a crash leaves points/ without one, never packs/."""
_OURS: Final = "if it is, run 'cbtfs repair --create-markers'"


class DamagedMarker(WrongDirectory):
    """Raised when a marker is there and fails its checksum."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a catalog knows of points/ and packs/."""

    points: frozenset[PointId]
    """Without those that were forgotten since."""
    has_points: bool
    """It knows points, be they forgotten since."""
    packs: frozenset[PackId]
    is_new: bool
    """Nothing was ever stored in this repository, as far as the catalog knows."""


def encode_marker(repository: str, directory: Directory) -> bytes:
    return seal({"format": FORMAT, "repository": repository, "directory": directory})


def write_marker(path: Path, repository: str, directory: Directory) -> None:
    """Write the marker of one directory of the repository at *path*."""
    with storing(f"the marker of {directory}/"):
        folder = Folder(path / directory)
        replace(folder.at / MARKER, encode_marker(repository, directory))


def require_directories(path: Path, repository: str, *, is_suspect: bool) -> None:
    """Raise WrongDirectory unless points/ and packs/ belong to the repository of that id.

    For the one writer. A repository that was made before there were markers gets them here if
    its catalog shows that these are the right directories; a catalog that *is_suspect* is
    verified before it is opened.
    """
    absent = absent_markers(path, repository)
    if absent:
        _refuse_unless_known(path, absent, is_suspect=is_suspect)
        for directory in absent:
            write_marker(path, repository, directory)


def look_at_directories(path: Path, repository: str) -> None:
    """Raise what require_directories() would raise; change nothing."""
    absent = absent_markers(path, repository)
    if absent:
        _refuse_unless_known(path, absent, is_suspect=False)


def absent_markers(path: Path, repository: str) -> list[Directory]:
    """Return the directories without a marker; WrongDirectory if one has not its own."""
    return [each for each in DIRECTORIES if not has_marker(path, repository, each)]


def has_marker(path: Path, repository: str, directory: Directory) -> bool:
    """Return whether a directory has its marker.

    DamagedMarker if there is one that cannot be read, WrongDirectory if it is another's,
    DataCorrupt if the directory is a link.
    """
    try:
        folder = Folder(path / directory)
    except FileNotFoundError:
        return False
    try:
        data = load_file(folder.at / MARKER, MAX_MARKER_BYTES)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise WrongDirectory(f"cannot read {directory}/{MARKER}: {exc.strerror}") from exc
    except DataCorrupt as exc:
        raise WrongDirectory(str(exc)) from exc
    try:
        document = unseal(data)
        found = id_of(document, "repository"), text(document, "directory")
    except ValueError as exc:
        raise DamagedMarker(
            f"{directory}/{MARKER} is damaged: {exc}; look whether {directory}/ is this "
            f"repository's directory: {_OURS}"
        ) from exc
    if found != (repository, directory):
        raise _wrong(directory, f"its marker is of {found[1]}/ of repository {found[0]}")
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
        if not (path / directory).is_dir():
            raise _wrong(directory, "there is no such directory")
    known = None if is_suspect and _is_damaged(path) else load_known(path)
    if known is None:
        raise _wrong(first, f"it has no marker, and there is no catalog to compare with; {_OURS}")
    there, packs = PointFolder(path / "points").ids(), PackFolder(path / "packs").ids()
    if not known.has_points and (there or packs or not known.is_new or len(absent) == 1):
        # It cannot tell an empty directory from one that is not mounted.
        raise _wrong(first, f"it has no marker, and the catalog knows no point; {_OURS}")
    gone = known.points - there
    if gone:
        raise _wrong(
            "points",
            f"it has no marker, and {len(gone)} of {len(known.points)} points that the catalog "
            "knows are not in it",
        )
    if known.packs and not known.packs & packs:
        raise _wrong("packs", "it has no marker, and no pack that the catalog knows is in it")


def _is_damaged(path: Path) -> bool:
    folder = path / "catalog"
    return (folder / gate.DATA).exists() and gate.verify(folder) is not None


def load_known(path: Path) -> Known | None:
    """Return what the catalog of the repository at *path* knows; None if it cannot be opened."""
    try:
        catalog = Catalog(path / "catalog", is_writable=False, schemas=POINTS_SCHEMAS)
    except (RepositoryNotFound, CatalogDamaged):
        return None
    try:
        with catalog.view() as view:
            points = frozenset(view.point_ids())
            forgotten = PointFolder(path / "points").forgotten_ids() & points
            packs = frozenset(view.pack_numbers())
            is_new = not view.points_version and view.next_object() == 1 and not packs
            return Known(points - forgotten, bool(points), packs, is_new)
    except CatalogDamaged:
        return None
    finally:
        catalog.close()


def create_markers(path: Path, repository: str) -> list[Directory]:
    """Write the markers that are absent or damaged; which these were.

    For the one writer, where the user vouches for the directories. WrongDirectory where a marker
    is of another repository, or a directory is not there.
    """
    wanted: list[Directory] = []
    for directory in DIRECTORIES:
        if not (path / directory).is_dir():
            raise _wrong(directory, "there is no such directory")
        try:
            if has_marker(path, repository, directory):
                continue
        except DamagedMarker:
            """Replaced: the user has looked at the directory."""
        wanted.append(directory)
    for directory in wanted:
        write_marker(path, repository, directory)
    return wanted
