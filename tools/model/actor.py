"""An actor: a program that runs on a machine, and the facilities that it uses there."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from tools.model.forest import Forest
from tools.model.record import Record
from tools.model.rules import Rules
from tools.model.store import Pack

_SCRAMBLE = 2654435761
"""Multiplier that gives ids an order which is not that of their creation."""


@dataclass(slots=True)
class Clock:
    """Time of the whole world in hours."""

    now: float = 0.0


@dataclass(slots=True)
class Machine:
    """A computer: its clocks, its catalog and its memory of holds."""

    world_clock: Clock
    rate: float = 1.0
    """Speed of the monotonic clock, which continues while the machine sleeps."""
    offset: float = 0.0
    """Error of the time of day in hours; it jumps."""
    catalog: dict[int, Pack] = field(default_factory=dict)
    """Packs that were listed once. May be cleared at any time."""
    last_look: object = None
    """The newest look of a writer, for the model without `look-after-intent`."""
    beats: dict[int, tuple[int, float]] = field(default_factory=dict)
    """For each hold the number of its newest renewal, and when it was first seen."""

    def clock(self) -> float:
        return self.world_clock.now * self.rate

    def time_of_day(self) -> float:
        return self.world_clock.now + self.offset


@dataclass(slots=True)
class Actor:
    """The surroundings of one run of a program."""

    number: int
    machine: Machine
    rules: Rules
    forest: Forest
    record: Record
    new_root: Callable[[int | None], int]
    """Return the content of a disk whose base had this root."""
    pack_objects: int = 4
    """Number of objects that fill a pack."""
    aborts: bool = False
    """Whether a writer ends before it commits, in good order."""
    learned: int = 0
    """A number that is equal after equal replies, which determine the state of the program."""
    ids: int = 0
    holds: list[int] = field(default_factory=list)
    """Holds of this process, which end with it."""

    def new_id(self) -> int:
        """Return a name that was never used."""
        self.ids += 1
        return (self.number * 1003 + self.ids) * _SCRAMBLE % (1 << 31)

    def learn(self, reply: Hashable) -> None:
        self.learned = hash((self.learned, reply))

    def clock(self) -> float:
        """Return the time of the monotonic clock of the machine in hours."""
        now = self.machine.clock()
        self.learn(now)
        return now

    def time_of_day(self) -> float:
        now = self.machine.time_of_day()
        self.learn(now)
        return now
