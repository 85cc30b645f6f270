"""Programs that need a point to stay: a mount with a hold, an overlay with a pin."""

from typing import Final

from tools.model.actor import Actor
from tools.model.programs.client import create, delete, get
from tools.model.programs.look import list_packs, look_at_points
from tools.model.record import OpenReader
from tools.model.requests import Choose, Pause, Program
from tools.model.rules import Rule
from tools.model.store import Pack, Prefix, Use

VALID_HOURS: Final = 20.0
"""Age at which a reader stops using its hold; less than EXPIRY_HOURS by more than clocks drift."""
EXPIRY_HOURS: Final = 24.0
"""Age at which a prune ignores a hold."""
_LOOKS: Final = 3
"""Listings before a read fails: an object may move to another pack during a listing."""


def overlay(actor: Actor, *, pauses: int = 12) -> Program[None]:
    """Pin a point, use it for some time, and remove the pin."""
    living = (yield from look_at_points(actor)).living
    if not living:
        return
    commit = sorted(living)[(yield Choose(len(living)))]
    pin = actor.new_id()
    yield from create(actor, (Prefix.PINS, pin), Use(commit))
    if Rule.PIN_CHECKS_POINT in actor.rules:
        is_listed = commit in (yield from look_at_points(actor)).living
    else:
        is_listed = True
    if is_listed:
        actor.record.pinned(pin, living[commit])
        yield from _pause(pauses)
        del actor.record.pins[pin]
    yield from delete((Prefix.PINS, pin))


def mount(
    actor: Actor, *, rounds: int = 8, pauses: int = 1, is_reading: bool = True
) -> Program[None]:
    """Hold a point and read it, unless not *is_reading*; renew the hold between reads."""
    living = (yield from look_at_points(actor)).living
    if not living:
        return
    commit = sorted(living)[(yield Choose(len(living)))]
    hold = actor.new_id()
    sent = actor.clock()
    yield from create(actor, (Prefix.HOLDS, hold), Use(commit, actor.time_of_day()))
    is_listed = True
    if Rule.HOLD_CHECKS_POINT in actor.rules:
        is_listed = commit in (yield from look_at_points(actor)).living
    if not is_listed:
        yield from delete((Prefix.HOLDS, hold))
        return
    reading = _Reading(actor, hold, living[commit])
    reading.count_from(sent)
    actor.holds.append(hold)
    actor.record.opened(hold, OpenReader(living[commit], reading.is_valid_now))
    for number in range(1, rounds + 1):
        yield from _pause(pauses)
        if is_reading:
            yield from reading.read()
        if not (yield from reading.renew(commit, number)):
            break
    yield from _pause(pauses)
    if is_reading:
        yield from reading.read()  # It was stopped after it had found its hold valid.
    actor.record.readers.pop(hold, None)
    yield from delete((Prefix.HOLDS, hold))


def _pause(count: int) -> Program[None]:
    for _ in range(count):
        yield Pause()


class _Reading:
    """A point that is being read under a hold."""

    def __init__(self, actor: Actor, hold: int, root: int) -> None:
        self._actor = actor
        self._hold = hold
        self._objects = sorted(actor.forest.closure(root))
        self._since = 0.0
        self._locations: dict[int, tuple[int, int]] = {}

    def is_valid_now(self) -> bool:
        """Return whether the reader would use its hold at this moment, for the checker."""
        return self._actor.machine.clock() - self._since < VALID_HOURS

    def count_from(self, sent: float) -> None:
        """Measure the age of the hold from *sent*, when its last request was sent."""
        is_exact = Rule.HOLD_FROM_SENDING in self._actor.rules
        self._since = sent if is_exact else self._actor.clock()
        self._actor.record.renewed()

    def renew(self, commit: int, number: int) -> Program[bool]:
        """Renew the hold; return whether it is valid."""
        is_strict = Rule.RENEW_IN_TIME in self._actor.rules
        sent = self._actor.clock()
        if is_strict and sent - self._since >= VALID_HOURS:
            return False
        use = Use(commit, self._actor.time_of_day())
        yield from create(self._actor, (Prefix.BEATS, (self._hold, number)), use)
        if is_strict and self._actor.clock() - self._since >= VALID_HOURS:
            return False
        self.count_from(sent)
        yield from delete((Prefix.BEATS, (self._hold, number - 1)))
        return True

    def read(self) -> Program[None]:
        """Read one object; the location is looked up again if it is wrong."""
        wanted = self._objects[(yield Choose(len(self._objects)))]
        for _ in range(_LOOKS):
            pack, index = self._locations.get(wanted, (0, 0))
            value = yield from get((Prefix.PACKS, pack))
            if isinstance(value, Pack) and index < len(value.objects):
                read = value.objects[index]
                if read == wanted or Rule.VERIFY_READS not in self._actor.rules:
                    self._actor.record.read(wanted, read)
                    return
            for name, other in (yield from list_packs()).items():
                self._locations.update((n, (name, i)) for i, n in enumerate(other.objects))
        self._actor.record.read(wanted, None)
