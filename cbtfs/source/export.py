"""An NBD export as a source; a dirty bitmap of QEMU can be its change list."""

from collections.abc import Sequence
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.core.reasons import FullReason
from cbtfs.errors import UsageError
from cbtfs.source.base import ChangeTrackingInvalid, Since, copy_into
from cbtfs.source.nbd import ALLOCATION, NbdExport, NbdLimits, TooManyExtents

SCHEMES: Final = ("nbd", "nbds", "nbd+unix", "nbds+unix")
BITMAP: Final = "qemu:dirty-bitmap:"
"""Prefix of the metadata context of a bitmap in QEMU's NBD servers (docs/interop/nbd.txt)."""
_MAX_NAME: Final = 1023
"""Maximum length of a bitmap's name in bytes (BDRV_BITMAP_MAX_NAME_SIZE of QEMU)."""


def is_uri(argument: str) -> bool:
    """Return whether *argument* is the URI of an NBD export, not a path."""
    return argument.partition("://")[0].lower() in SCHEMES and "://" in argument


def change_id_of(bitmap: str) -> str:
    """Return the change ID of a point whose moment is the start of *bitmap*."""
    if not bitmap or len(bitmap.encode()) > _MAX_NAME or not bitmap.isprintable():
        raise UsageError(f"{printable(bitmap[:80])!r} is not the name of a bitmap: see query-block")
    return BITMAP + bitmap


class NbdSource:
    """One export, which should not change until close()."""

    is_local = False

    def __init__(
        self, uri: str, bitmap: str | None = None, limits: NbdLimits | None = None
    ) -> None:
        """Open the export; SourceUnavailable if that fails.

        *bitmap* marks the blocks written since a point; without it the whole export is read.
        """
        self._context = None if bitmap is None else change_id_of(bitmap)
        contexts = [ALLOCATION, *([] if self._context is None else [self._context])]
        self._export = NbdExport(uri, contexts, limits)
        self.size = self._export.size

    def changed(self, since: Since) -> Sequence[Extent]:
        """Return the extents that the bitmap marks, unless the base contradicts it.

        A base that recorded the name of a bitmap must name this one. A base without a name counts
        as the start of the bitmap if it is the last committed point.
        """
        context = self._context
        if context is None:
            raise ChangeTrackingInvalid("no dirty bitmap was named", FullReason.NO_LIST)
        name = printable(context.removeprefix(BITMAP))
        if since.change_id is not None and since.change_id != context:
            recorded = printable(since.change_id.removeprefix(BITMAP))
            raise ChangeTrackingInvalid(
                f"the bitmap {name} is not the one that starts at {since.point}: {recorded} does",
                FullReason.LIST_OF_ANOTHER_POINT,
            )
        if since.change_id is None and not since.is_last_committed:
            raise ChangeTrackingInvalid(
                f"the bitmap {name} is since the last committed point, which {since.last}",
                FullReason.LIST_OF_ANOTHER_POINT,
            )
        if context not in self._export.contexts:
            raise ChangeTrackingInvalid(
                f"{self._export.name} has no bitmap {name}: export it with the disk "
                "(qemu-nbd --bitmap=NAME)",
                FullReason.NO_LIST,
            )
        try:
            return self._export.dirty(context)
        except TooManyExtents as exc:
            raise ChangeTrackingInvalid(
                f"the bitmap {name}: {exc}", FullReason.LIST_OF_ANOTHER_POINT
            ) from exc

    def allocated(self) -> Sequence[Extent]:
        return self._export.allocated()

    def read(self, extent: Extent) -> memoryview:
        return self._export.read(extent)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def confirm(self) -> None:
        """Do nothing: NBD does not report writes to an export."""

    def close(self) -> None:
        self._export.close()
