"""The object store of the model: named objects that are created once, listed and deleted."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple, TypeAlias


class Prefix(StrEnum):
    """First part of a name."""

    PACKS = "packs"
    POINTS = "points"
    FORGOTTEN = "forgotten"
    INTENTS = "intents"
    PRUNES = "prunes"
    PINS = "pins"
    HOLDS = "holds"
    BEATS = "beats"
    STATES = "states"
    SETTINGS = "settings"


Name: TypeAlias = int | tuple[int, int]
Key: TypeAlias = tuple[Prefix, Name]

CANDIDATES, VERDICT = 1, 2
"""Second part of the name of an object below `prunes/`."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Objects in the order in which they are stored."""

    objects: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A restore point: the root of its tree."""

    root: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Takes the name of the manifest of a stale run."""

    by: int


class Kind(Enum):
    """Meaning of an entry of the log of a point."""

    FORGOTTEN = 1
    RESTORED = 2
    FINAL = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log of a point; the entry with the highest number counts."""

    kind: Kind
    by: int


@dataclass(frozen=True, slots=True)
class Intent:
    """A run that may commit."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Packs that a prune may delete."""

    packs: frozenset[int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Packs and points that a prune deletes. They stay deleted, whatever appears later."""

    packs: frozenset[int]
    points: frozenset[int]


@dataclass(frozen=True, slots=True)
class Use:
    """A pin, a hold or a renewal: the point, and the writer's time of day in hours."""

    point: int
    stamp: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Required features of a repository in a local directory."""

    features: frozenset[str] = frozenset()


Value: TypeAlias = (
    Pack | Manifest | Tombstone | Entry | Intent | Candidates | Verdict | Use | Settings
)


class Listing(NamedTuple):
    """One page of a listing."""

    items: tuple[tuple[Name, Value], ...]
    is_last: bool


class Store:
    """Objects by name. Each request is atomic and sees all earlier ones."""

    def __init__(self, *, is_conditional: bool = True) -> None:
        """*is_conditional* is False for a server that ignores `If-None-Match`."""
        self._is_conditional = is_conditional
        self._objects: dict[Prefix, dict[Name, Value]] = {prefix: {} for prefix in Prefix}
        self.copies: Counter[int] = Counter()
        """Number of existing packs that have an object."""
        self.version = 0
        """Number of changes."""
        self.fingerprint = 0
        """A number that is equal for equal contents."""

    def create(self, key: Key, value: Value) -> bool:
        prefix, name = key
        objects = self._objects[prefix]
        if name in objects:
            if self._is_conditional:
                return False
            self.delete(key)
        objects[name] = value
        self._note(key, value)
        if isinstance(value, Pack):
            self.copies.update(value.objects)
        return True

    def delete(self, key: Key) -> None:
        prefix, name = key
        value = self._objects[prefix].pop(name, None)
        if value is not None:
            self._note(key, value)
        if isinstance(value, Pack):
            self.copies.subtract(value.objects)

    def _note(self, key: Key, value: Value) -> None:
        self.version += 1
        self.fingerprint ^= hash((key, value))

    def get(self, key: Key) -> Value | None:
        prefix, name = key
        return self._objects[prefix].get(name)

    def all(self, prefix: Prefix) -> dict[Name, Value]:
        """Return the objects below a prefix, for the checker. Not to be changed."""
        return self._objects[prefix]

    def page(self, prefix: Prefix, after: Name | None, limit: int) -> Listing:
        """Return the first *limit* objects whose name is greater than *after*."""
        items = sorted(self._objects[prefix].items(), key=lambda item: _order(item[0]))
        if after is not None:
            items = [item for item in items if _order(item[0]) > _order(after)]
        return Listing(tuple(items[:limit]), len(items) <= limit)


def _order(name: Name) -> tuple[int, int]:
    return (name, 0) if isinstance(name, int) else name
