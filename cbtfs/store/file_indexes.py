"""indexes/: an index of the files of a point, one object for each; derived, and ignored if damaged.

An index is built and written without the writer's lock, under a lease on its point. A prune removes
those of points that are gone, so an index that was written too late stays until the next one.
"""

from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from cbtfs.core.file_index import Layout, Part, decode_header, header_bytes
from cbtfs.core.ids import PointId, is_id
from cbtfs.errors import DataCorrupt
from cbtfs.store.backend.base import Backend
from cbtfs.store.backend.layout import INDEXES, indexes_locked, make_indexes, open_indexes
from cbtfs.store.codec import decompressed
from cbtfs.store.encryption.ring import can_read, require_content
from cbtfs.store.storing import storing

_FIRST_READ: Final = 128 << 10
"""Bytes that have the header of an index of a million files."""


class IndexMissing(DataCorrupt):
    """Raised if a point has no index."""


class FileIndexes:
    """The indexes of a repository."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._backend: Backend | None = None

    def __enter__(self) -> "FileIndexes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the storage."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def _opened(self) -> Backend | None:
        """Return the storage; None if there is no index yet."""
        if self._backend is None:
            with suppress(FileNotFoundError):
                self._backend = open_indexes(self._repository)
        return self._backend

    def ids(self) -> set[PointId]:
        """Return the points that have an index, which may be damaged."""
        backend = self._opened()
        return set() if backend is None else {PointId(n) for n in backend.names() if is_id(n)}

    def put(self, point: PointId, data: bytes) -> None:
        """Write the index of a point durably, in place of another one.

        Raises:
            KeyUnavailable: the key given is a capture key, which must not see names of files.
            StoreFailed: it cannot be written.
        """
        require_content(self._repository)
        with storing("an index of files"):
            make_indexes(self._repository)
            with indexes_locked(self._repository):
                self.close()  # The first capture key, exported since, changes the key of indexes.
                backend = self._opened()
                assert backend is not None
                with suppress(FileNotFoundError):
                    backend.delete(point)
                backend.create(point, data)

    def load(self, point: PointId) -> bytes:
        """Return all bytes of an index.

        Raises:
            IndexMissing: the point has none.
            DataCorrupt: it cannot be read.
        """
        return self._get(point, 0, None)

    def layout(self, point: PointId) -> Layout:
        """Return the header of an index.

        Raises:
            IndexMissing: the point has none.
            DataCorrupt: it is damaged.
        """
        data = self._get(point, 0, _FIRST_READ)
        try:
            if header_bytes(data) > len(data):
                data = self._get(point, 0, header_bytes(data))
            layout = decode_header(data)
            if layout.header.point != point:
                raise ValueError("it belongs to another point")
        except ValueError as exc:
            raise _damaged(point, str(exc)) from exc
        return layout

    def part(self, point: PointId, offset: int, part: Part) -> bytes:
        """Return the decompressed bytes of a part.

        Raises:
            IndexMissing: the index is gone.
            DataCorrupt: it is damaged.
        """
        data = self._get(point, offset, part.length)
        if not part.is_of(data):
            raise _damaged(point, "the digest of a part does not match")
        return decompressed(data, part.plain)

    def verify(self, point: PointId) -> Layout:
        """Return the header of an index, all of whose parts are intact.

        Raises:
            IndexMissing: the point has none.
            DataCorrupt: it is damaged.
        """
        layout = self.layout(point)
        for segment, offset in zip(layout.header.segments, layout.offsets, strict=False):
            self.part(point, offset, segment.names)
            self.part(point, offset + segment.names.length, segment.facts)
        return layout

    def keep(self, points: Collection[PointId]) -> int:
        """Remove the indexes of all other points, and partial ones; return their number.

        Only for the writer.
        """
        backend = self._opened()
        if backend is None:
            return 0
        gone = self.ids() - {*points}
        with storing("the directory of indexes"), indexes_locked(self._repository):
            for point in gone:
                backend.delete(point)
            backend.discard_unfinished()
            if gone:
                backend.flush()
        return len(gone)

    def drop(self, points: Iterable[PointId]) -> None:
        """Remove the indexes of *points*, which a prune has removed."""
        backend = self._opened()
        if backend is not None:
            with storing("the directory of indexes"), indexes_locked(self._repository):
                for point in points:
                    backend.delete(point)
                backend.flush()

    def _get(self, point: PointId, offset: int, length: int | None) -> bytes:
        backend = self._opened()
        try:
            if backend is None:
                raise FileNotFoundError
            return backend.get(point, offset, length).data
        except FileNotFoundError as exc:
            raise IndexMissing(f"point {point} has no index of files") from exc
        except OSError as exc:
            raise _damaged(point, str(exc.strerror)) from exc
        except ValueError as exc:  # It cannot be decrypted.
            raise _damaged(point, str(exc)) from exc


def _damaged(point: PointId, reason: str) -> DataCorrupt:
    return DataCorrupt(
        f"the index {INDEXES}/{point} is damaged: {reason}; run 'cbtfs files index {point[:12]}'"
    )


def copy_index(source: Path, target: Path, point: PointId) -> bool:
    """Copy the index of a point to another repository, unless it is missing or damaged.

    Nothing is copied with a capture key for the target: it cannot encrypt names of files.
    """
    if not can_read(target):
        return False
    with closing(FileIndexes(source)) as ours, closing(FileIndexes(target)) as theirs:
        try:
            ours.verify(point)
            data = ours.load(point)
        except DataCorrupt:
            return False
        theirs.put(point, data)
        return True
