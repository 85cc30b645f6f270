"""All directories of a guest by their paths, from scans of its volumes."""

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.files.folder import Folder, clamped, row_of
from cbtfs.files.point import PointFiles
from cbtfs.files.protocol import FORMAT_OF_KIND, FileSystem
from cbtfs.files.tree import File
from cbtfs.files.volumes import Volume
from cbtfs.files.walk import LeftOut, walk

Areas = Callable[[str, Volume], Sequence[Extent] | None]
"""Returns the areas of the scan of a volume that the guest mounts at a path."""


@dataclass(frozen=True, slots=True)
class GuestFolder:
    """Files in one directory of a guest."""

    path: str
    folder: Folder
    place: str | None
    """Path where the guest mounts its volume; None above all volumes."""


def guest_folders(
    files: PointFiles, left_out: LeftOut, areas: Areas | None = None, below: str = "/"
) -> Iterator[GuestFolder]:
    """Yield all directories of a point, each once, or in several folders if it is large.

    A volume or a directory that cannot be read is added to *left_out*. *below*: yield at least
    the directories below this path, and scan no volume that has none.
    """
    places = {_parts(path): volume for path, volume in files.places.items()}
    wanted = _parts(below)
    yield from _made_up(files, places)
    for at, volume in places.items():
        if at[: len(wanted)] != wanted and wanted[: len(at)] != at:
            continue
        hidden = [other for other in places if len(other) > len(at) and other[: len(at)] == at]
        place = "/" + "/".join(at)
        try:
            file_system = files.tree.file_system(volume)
            for folder in file_system.scan(None if areas is None else areas(place, volume)):
                path = _below(place, folder.path)
                parts = _parts(path) if hidden else ()
                if any(parts[: len(other)] == other for other in hidden):
                    continue
                if folder.failure is not None:
                    left_out.add(path, folder.failure)
                    continue
                _replace_mounts(files, folder, parts, hidden)
                yield GuestFolder(path, folder, place)
        except CbtfsError as exc:
            left_out.add(place, exc)


def paths_below(files: PointFiles, top: File, left_out: LeftOut) -> Iterator[str]:
    """Yield the path of *top* and of all files below it, in the order of walk().

    The root of a volume is scanned; another directory is walked, because a scan reads all inodes of
    its volume.
    """
    if top.path not in {"/", *files.places} or not top.is_directory:
        yield from (file.path for file in walk(files.tree, top, left_out))
        return
    folders: dict[str, list[str]] = {}
    for item in guest_folders(files, left_out, below=top.path):
        folders.setdefault(item.path, []).extend(item.folder.names)
    pending = [top.path]
    while pending:
        path = pending.pop()
        yield path
        children = folders.pop(path, None)
        if children is not None:
            prefix = path.rstrip("/") + "/"
            pending += [prefix + name for name in sorted(children, reverse=True)]


def root_folder(file_system: FileSystem, name: str) -> Folder:
    """Return a folder that has only the root of a file system, under a name."""
    folder = Folder("/")
    folder.add([name], [row_of(file_system.stat("/"))])
    return folder


def _replace_mounts(
    files: PointFiles, folder: Folder, parts: tuple[str, ...], hidden: Iterable[tuple[str, ...]]
) -> None:
    """Give mount points in a folder the facts of the file systems that are mounted there."""
    for mount in hidden:
        if mount[:-1] != parts or mount[-1] not in folder.names:
            continue
        at = folder.names.index(mount[-1])
        try:
            root = files.tree.file_system(files.places["/" + "/".join(mount)]).stat("/")
        except CbtfsError:
            continue  # The scan of that volume has the same error.
        folder.modes[at] = FORMAT_OF_KIND.get(root.kind, 0) | root.mode
        folder.inodes[at] = root.inode
        folder.owners[at], folder.groups[at] = root.owner, root.group
        folder.sizes[at], folder.modified[at] = root.size, clamped(root.modified_ns)


def _made_up(files: PointFiles, places: dict[tuple[str, ...], Volume]) -> Iterator[GuestFolder]:
    """Yield the directories above the places that no volume has."""
    if () in places:
        return
    above = {place[:count] for place in places for count in range(len(place))}
    for path in sorted(above):
        if any(path[: len(place)] == place for place in places):
            continue
        folder = Folder("/" + "/".join(path))
        below = sorted(p for p in above | places.keys() if p and p[:-1] == path)
        made_up = stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0
        folder.add([child[-1] for child in below], [made_up] * len(below))
        _replace_mounts(files, folder, path, [child for child in below if child in places])
        yield GuestFolder(folder.path, folder, None)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(filter(None, path.split("/")))


def _below(place: str, inner: str) -> str:
    if place == "/":
        return inner
    return place if inner == "/" else place + inner
