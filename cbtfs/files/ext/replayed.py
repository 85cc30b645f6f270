"""An ext file system with its journal replayed, and its files read from the volume."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from cbtfs.core.extent import Extent
from cbtfs.files.ext.scan import scan
from cbtfs.files.ext.superblock import read_superblock
from cbtfs.files.ext.volume import ExtVolume
from cbtfs.files.folder import Folder
from cbtfs.files.jbd2.refusal import Reason, ReplayRefused
from cbtfs.files.jbd2.replay import ReplayedVolume, replayed
from cbtfs.files.protocol import FileExtent, FileSystemDamaged, FileSystemUnsupported
from cbtfs.volumes.source import Source

REPLAYED = "its journal was replayed"


class ExtFileSystem(ExtVolume):
    """An ext file system as its guest would see it after a crash at the time of the point."""

    def __init__(self, source: Source) -> None:
        """Open the file system of *source*.

        Raises:
            FileSystemDamaged: its superblock or its journal is damaged.
            FileSystemUnsupported: it is neither clean nor can its journal be replayed.
        """
        original = read_superblock(source)
        self._overlay = None if original.is_clean else _replay(source)
        super().__init__(self._overlay or source)
        self.kind = self.superblock.kind
        notes = [] if self._overlay is None else [REPLAYED]
        if self.superblock.has_errors:
            notes.append("the guest has recorded errors in it")
        self.notes: Sequence[str] = notes
        if not self.superblock.is_clean:
            raise FileSystemUnsupported(
                "it was in use and has no journal, so files may be missing in it"
            )

    def extents(self, path: str, offset: int = 0) -> Iterator[FileExtent]:
        """Yield the extents of a file; those in the journal have no offset on the volume."""
        for extent in super().extents(path, offset):
            if self._overlay is None or extent.offset is None:
                yield extent
            else:
                yield from _split(extent, extent.offset, self._overlay)

    def scan(self, areas: Sequence[Extent] | None = None) -> Iterator[Folder]:
        """Yield all directories. Blocks in the journal are areas, too."""
        if areas is not None and self._overlay is not None:
            size = self._overlay.block_bytes
            areas = [*areas, *(Extent(block * size, size) for block in self._overlay.replaced)]
        yield from scan(self, areas)


def _replay(source: Source) -> ReplayedVolume | None:
    try:
        return replayed(source)
    except ReplayRefused as exc:
        if exc.reason is Reason.DAMAGED:
            raise FileSystemDamaged(str(exc)) from exc
        raise FileSystemUnsupported(f"its journal cannot be replayed: {exc}") from exc


def _split(extent: FileExtent, offset: int, overlay: ReplayedVolume) -> Iterator[FileExtent]:
    """Yield the parts of an extent, those that the log replaces without an offset."""
    size, replaced = overlay.block_bytes, overlay.replaced
    at, end = offset, offset + extent.length
    position = bisect_left(replaced, at // size)

    def part(until: int, place: int | None) -> FileExtent:
        return FileExtent(extent.start + at - offset, until - at, place)

    while at < end:
        following = replaced[position] * size if position < len(replaced) else end
        if following > at:
            until = min(following, end)
            yield part(until, at)
        else:
            until = min(following + size, end)
            yield part(until, None)
            position += 1
        at = until
