"""A writable NBD export as the target of a restore in place."""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbtfs.core.extent import Extent, between
from cbtfs.errors import AccessDenied, SourceUnavailable, TargetFailed, UsageError
from cbtfs.restore.in_place_target import ZEROS, refuse_small
from cbtfs.source.nbd import NbdExport, NbdLimits


class InPlaceExport:
    """A writable NBD export."""

    def __init__(self, export: NbdExport) -> None:
        self._export = export
        self._edges = threading.Lock()
        """Held to change a part of a unit, which is read and written as a whole."""
        self.name = export.name
        self.size = export.size
        self.path: Path | None = None
        self.files: tuple[int, int] | None = None

    def data_in(self, extent: Extent) -> Iterator[Extent]:
        yield extent

    def read(self, offset: int, data: memoryview) -> None:
        data[:] = self._export.read(Extent(offset, len(data)))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        unit = self._export.unit
        end = offset + len(data)
        if offset % unit == end % unit == 0:
            with _writing(self.name):
                self._export.write(offset, data)
            return
        first, last = offset // unit * unit, -(-end // unit) * unit
        with self._edges, _writing(self.name):
            whole = bytearray(self._export.read(Extent(first, last - first)))
            whole[offset - first : end - first] = data
            self._export.write(first, memoryview(whole))

    def zero(self, extent: Extent) -> None:
        unit = self._export.unit
        first, last = -(-extent.start // unit) * unit, extent.end // unit * unit
        if first < last and self._export.can_zero:
            with _writing(self.name):
                self._export.zero(Extent(first, last - first))
            rest = [*between(extent.start, first), *between(last, extent.end)]
        else:
            rest = [extent]
        for part in rest:
            for at in range(part.start, part.end, len(ZEROS)):
                self.write(at, ZEROS[: part.end - at])

    def flush(self) -> None:
        with _writing(self.name):
            self._export.flush()

    def drop_cache(self) -> None:
        """Do nothing: NBD has no request for that."""

    def facts(self) -> os.stat_result:
        raise AssertionError("an export has no attributes")


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except SourceUnavailable as exc:
        raise TargetFailed(f"cannot write {name}: {exc}; it is incomplete") from exc


@contextmanager
def open_export(uri: str, size: int) -> Iterator[InPlaceExport]:
    """Open a writable NBD export for a disk of *size* bytes; nothing is written yet."""
    # A lost connection ends the run: the server may have lost writes that were not flushed.
    with contextlib.closing(NbdExport(uri, (), NbdLimits(pauses=()))) as export:
        if export.is_read_only:
            raise AccessDenied(f"cannot write {export.name}: the export is read-only")
        if not export.can_flush:
            raise UsageError(
                f"{export.name} cannot flush, so its writes may be lost: use another NBD server"
            )
        opened = InPlaceExport(export)
        refuse_small(opened, size)
        if -(-size // export.unit) * export.unit > export.size:
            raise UsageError(
                f"the size of {export.name} is not a multiple of its minimum block size, "
                f"{export.unit} bytes: restore to another target"
            )
        yield opened
