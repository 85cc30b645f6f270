"""The points of a repository, of one writer or of several."""

from pathlib import Path

from cbtfs.store.backend.layout import open_points
from cbtfs.store.points import PointFolder, Points
from cbtfs.store.settings import load_settings


def open_point_folder(repository: Path) -> Points:
    """Return the points of a repository; DataCorrupt if a directory is missing."""
    if load_settings(repository).is_shared:
        from cbtfs.store.shared.places import open_places
        from cbtfs.store.shared.points import SharedPoints

        return SharedPoints(open_places(repository))
    return PointFolder(open_points(repository))
