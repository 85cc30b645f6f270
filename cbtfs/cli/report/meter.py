"""Progress of one piece of work: share done, rate and remaining time.

The caller passes the time, in seconds of a monotonic clock.
"""

from collections import deque
from enum import StrEnum
from typing import Any, Final

from cbtfs.core.units import format_duration, format_size

_WINDOW_SECONDS: Final = 30.0
"""Age of the oldest sample of a rate: a stall shows within this time."""
_SAMPLE_SECONDS: Final = 0.5
_RATE_AFTER_SECONDS: Final = 2.0
"""No rate is given earlier. The first reads come from caches, so their rate predicts nothing."""


class Unit(StrEnum):
    """What is counted."""

    BYTES = "bytes"
    """Bytes that are read or written; they have a rate."""
    OBJECTS = "objects"
    SHARE = "share"
    """A measure of the work without a unit, such as the sizes of disks whose maps are compared."""


class Meter:
    """Counts the progress of *total* units of work that is called *what*."""

    def __init__(self, what: str, total: int, unit: Unit, now: float) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = 0
        self._started = now
        self._samples = deque([(now, 0)])

    def advance(self, count: int, now: float) -> None:
        """Count *count* units that were done by the time *now*."""
        self.done += count
        if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self.done))
        self._drop_old(now)

    def _drop_old(self, now: float) -> None:
        while len(self._samples) > 1 and self._samples[1][0] <= now - _WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def is_complete(self) -> bool:
        return self.done >= self.total

    @property
    def percent(self) -> int:
        """Share done in percent, rounded down: 100 means complete."""
        return 100 if self.is_complete else 100 * self.done // self.total

    def rate(self, now: float) -> float | None:
        """Return units per second over the last 30 seconds; None in the first two seconds."""
        if now - self._started < _RATE_AFTER_SECONDS:
            return None
        self._drop_old(now)
        since, done = self._samples[0]
        return (self.done - done) / max(now - since, _SAMPLE_SECONDS)

    def seconds_left(self, now: float) -> float | None:
        """Return the remaining time at the present rate; None if there is no rate."""
        if self.is_complete:
            return 0.0
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate else None

    def words(self, now: float) -> str:
        """Return e.g. `12.3 GiB of 100 GiB, 12 %, 1.21 GiB/s, 73 s left`."""
        parts = [f"{self.percent} %"]
        if self.unit is Unit.BYTES:
            parts.insert(0, f"{format_size(self.done)} of {format_size(self.total)}")
            rate = self.rate(now)
            if rate is not None:
                parts.append(f"{format_size(int(rate))}/s")
        elif self.unit is Unit.OBJECTS:
            parts.insert(0, f"{self.done} of {self.total}")
        left = self.seconds_left(now)
        if left:
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)

    def document(self, now: float) -> dict[str, Any]:
        """Return a document of --progress json (docs/commands.md)."""
        rate = self.rate(now) if self.unit is Unit.BYTES else None
        left = self.seconds_left(now)
        return {
            "progress": {
                "what": self.what,
                "unit": self.unit,
                "done": self.done,
                "total": self.total,
                "percent": self.percent,
                "per_second": None if rate is None else round(rate),
                "seconds_left": None if left is None else round(left, 1),
            }
        }
