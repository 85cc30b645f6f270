"""An NBD export as a source; a dirty bitmap of QEMU's can be its list of changes."""

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
"""How QEMU's NBD servers call the metadata context of a bitmap (docs/interop/nbd.txt of QEMU)."""
_MAX_NAME: Final = 1023
"""Bytes of a bitmap's name (BDRV_BITMAP_MAX_NAME_SIZE of QEMU)."""


def is_uri(place: str) -> bool:
    """Whether *place* names an NBD export rather than a file."""
    return place.partition("://")[0].lower() in SCHEMES and "://" in place


def change_id_of(bitmap: str) -> str:
    """What a point records as its change ID if *bitmap* starts at the moment that it shows."""
    if not bitmap or len(bitmap.encode()) > _MAX_NAME or not bitmap.isprintable():
        raise UsageError(f"{printable(bitmap[:80])!r} is no name of a bitmap: see query-block")
    return BITMAP + bitmap


class NbdSource:
    """One export, which shows one moment and should stay so until close()."""

    is_local = False

    def __init__(
        self, uri: str, bitmap: str | None = None, limits: NbdLimits | None = None
    ) -> None:
        """SourceUnavailable if the export cannot be opened.

        *bitmap* marks what was written since a point; a server that lacks it is read whole.
        """
        self._context = None if bitmap is None else change_id_of(bitmap)
        contexts = [ALLOCATION, *([] if self._context is None else [self._context])]
        self._export = NbdExport(uri, contexts, limits)
        self.size = self._export.size

    def changed(self, since: Since) -> Sequence[Extent]:
        """What the bitmap marks, if the base says nothing against its being since then.

        A base that recorded the name of the bitmap that starts with it is matched by that name;
        one that did not is believed to be where the bitmap starts if it is the last committed.
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
        """Nothing to ask: NBD does not tell whether an export was written to."""

    def close(self) -> None:
        self._export.close()
