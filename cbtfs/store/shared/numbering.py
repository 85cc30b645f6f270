"""Numbers of the objects of a writer in a catalog that other processes write to, too.

A writer refers to a new object by a provisional number until the pack of the object is closed. The
transaction that enters the pack gives final numbers, so ids ascend in the order of the catalog, and
children precede parents. An object that another process has entered meanwhile keeps its number.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cbtfs.core.frame import Frame
from cbtfs.core.ids import ObjectId
from cbtfs.errors import StoreFailed
from cbtfs.store.catalog.records import Location
from cbtfs.store.catalog.update import NewObject, Update
from cbtfs.store.pack import PackWriter
from cbtfs.store.shared.avoided import Avoided

FIRST: Final = 1 << 60
"""The first provisional number, beyond all numbers of a catalog."""
_APART: Final = FIRST + (1 << 59)
"""The first one of objects in packs of their own: the numbers of a pack must be consecutive."""


class ClosedPack(NamedTuple):
    """A closed pack that is to be entered."""

    writer: PackWriter
    size: int
    objects: Sequence[NewObject]
    """New objects with provisional numbers, of themselves and of their children."""
    moved: Sequence[tuple[ObjectId, Frame]]
    since: int
    """Number of a pack from which on the pack may have been entered by a catch-up."""


def _stale(problem: str) -> StoreFailed:
    return StoreFailed(f"{problem}, because a prune fenced the run as stale; run the command again")


class Numbering:
    """Provisional numbers of one writer and their final ones: 8 bytes for each new object."""

    def __init__(self, avoided: Avoided | None, is_fenced: Callable[[], bool] | None) -> None:
        """*is_fenced* returns whether a prune may have deleted the packs of this writer."""
        self._avoided = avoided
        self._is_fenced = is_fenced
        self._next = {False: FIRST, True: _APART}
        self._entered = {apart: (list[int](), list["array[int]"]()) for apart in self._next}
        """Starts and final numbers of the packs that are entered."""

    def new(self, *, is_apart: bool = False) -> ObjectId:
        """Return the next provisional number; *is_apart*: of nodes in packs of their own."""
        number = ObjectId(self._next[is_apart])
        self._next[is_apart] += 1
        return number

    def final(self, number: ObjectId) -> ObjectId:
        """Return the number in the catalog of an object whose pack is entered."""
        if number < FIRST:
            return number
        starts, finals = self._entered[number >= _APART]
        at = bisect_right(starts, number) - 1
        return ObjectId(finals[at][number - starts[at]])

    def enter(self, update: Update, pack: ClosedPack) -> "array[int]":
        """Enter a pack; return the final numbers of its objects, for settle().

        Raises:
            StoreFailed: a prune has fenced this run, so the pack or an object that it refers to
                may be gone.
        """
        # Other writers would use the objects of a pack that is deleted.
        if self._is_fenced is not None and self._is_fenced():
            raise _stale("a pack of this run may be deleted")
        number = update.find_pack(pack.writer.id, pack.since)
        if number is None:
            number = update.add_pack(pack.writer.id, pack.size, len(pack.writer.frames))
        first = update.next_object()
        start = pack.objects[0].number if pack.objects else ObjectId(0)
        finals = array("Q")
        added: list[NewObject] = []
        known: set[ObjectId] = set()
        for new in pack.objects:
            existing = self._existing(update, new.frame)
            if existing is not None:
                finals.append(existing)
                continue
            children = None
            if new.children is not None:
                children = [
                    ObjectId(finals[child - start]) if child >= start > 0 else self.final(child)
                    for child in new.children
                ]
                known.update(child for child in children if 0 < child < first)
            final = ObjectId(first + len(added))
            finals.append(final)
            added.append(NewObject(final, new.frame, children))
        if not update.has_all(known):
            raise _stale("an object that this run needs was deleted")
        update.add_objects(number, added)
        for moved, frame in pack.moved:
            location = update.location(moved)
            if location is not None and location.frame.digest == frame.digest:
                update.move_object(moved, Location(number, frame))
        return finals

    def settle(self, pack: ClosedPack, finals: "array[int]") -> None:
        """Remember the final numbers of a pack, once its transaction is durable."""
        if pack.objects:
            start = pack.objects[0].number
            starts, entered = self._entered[start >= _APART]
            starts.append(start)
            entered.append(finals)

    def _existing(self, update: Update, frame: Frame) -> ObjectId | None:
        for number in update.find_all(frame.kind, frame.level, frame.digest):
            if self._avoided is None or self._avoided.is_usable(update, number):
                return number
        return None
