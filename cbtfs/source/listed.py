"""A source whose change list is read from a file."""

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbtfs.core.extent import Extent
from cbtfs.core.fields import MAX_INTEGER
from cbtfs.core.ids import PointId
from cbtfs.core.names import printable
from cbtfs.core.reasons import FullReason
from cbtfs.errors import UsageError
from cbtfs.source.base import ChangeTrackingInvalid, DiskSource, Since
from cbtfs.source.wrappers import WrappedSource

_FORM: Final = '[{"start": n, "length": n}, …] in bytes, or {"since": POINT, "extents": […]}'
_SHOWN_CHARACTERS: Final = 80
"""Length of an external name in a message."""


@dataclass(frozen=True, slots=True)
class ChangeList:
    """The changes that a file lists, not validated yet."""

    extents: tuple[tuple[int, int], ...]
    """(start, length), bytes."""
    since: str | None = None
    """The base point of the changes, as the user writes it; None: the last committed one."""


def load_change_list(path: Path) -> ChangeList:
    """Return the change list in the JSON file at *path*; UsageError if it is malformed."""
    name = printable(str(path))
    try:
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"cannot read the change list {name}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(
            f"the change list {name} is not JSON ({exc}): the form is {_FORM}"
        ) from exc
    since: Any = None
    items: Any = document
    if isinstance(document, dict):
        since, items = document.get("since"), document.get("extents")
    if not isinstance(items, list) or not (since is None or isinstance(since, str)):
        raise UsageError(f"the change list {name} is malformed: the form is {_FORM}")
    try:
        return ChangeList(tuple((_whole(i["start"]), _whole(i["length"])) for i in items), since)
    except (KeyError, TypeError) as exc:
        raise UsageError(
            f"the change list {name} is malformed ({exc}): the form is {_FORM}"
        ) from exc


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise TypeError(f"{reprlib.repr(value)} is not a whole number of bytes")
    return value


class ListedSource(WrappedSource):
    """Adds a change list to a source; an invalid list is not used at all."""

    def __init__(
        self, source: DiskSource, changes: ChangeList, since: PointId | None = None
    ) -> None:
        """*since* is the point that the list names; None if no point has that name."""
        super().__init__(source)
        self._changes = changes
        self._since = since

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        self._source.read_into(extent, parts)

    def changed(self, since: Since) -> Sequence[Extent]:
        if self._changes.since is None:
            if not since.is_last_committed:
                raise ChangeTrackingInvalid(
                    f"the change list is since the last committed point, which {since.last}",
                    FullReason.LIST_OF_ANOTHER_POINT,
                )
        elif self._since != since.point:
            named = printable(self._changes.since[:_SHOWN_CHARACTERS])
            raise ChangeTrackingInvalid(
                f"the change list is since {named}, not since {since.point}",
                FullReason.LIST_OF_ANOTHER_POINT,
            )
        for number, (start, length) in enumerate(self._changes.extents):
            if start < 0 or length <= 0 or start + length > self.size:
                raise ChangeTrackingInvalid(
                    f"the change list is refused: item {number} (start {start}, length {length}) "
                    f"is not within the disk's {self.size} bytes",
                    FullReason.LIST_REFUSED,
                )
        return [Extent(start, length) for start, length in self._changes.extents]
