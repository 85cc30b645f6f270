"""Memory of the prunes of this host: beats, and the intents that each prune waits for.

No clock is compared with another one. Times are those of CLOCK_BOOTTIME, which continues while the
host sleeps, and start at zero with each boot.
"""

import json
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cbtfs.core.shared import PruneId, RunId
from cbtfs.store.files import load_file, replace

log = logging.getLogger(__name__)

EXPIRY_SECONDS: Final = 24 * 3600.0
"""Time without a new beat after which a run or a hold is stale."""
_MAX_BYTES: Final = 1 << 24
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_clock() -> float:
    """Return the seconds since the boot, including sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


class Looks:
    """Local state of prunes, in one file; losing it only makes prunes wait longer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot_id()
        self._beats: dict[str, tuple[int, float]] = {}
        self._waits: dict[str, list[str]] = {}
        try:
            self._load(json.loads(load_file(path, _MAX_BYTES)))
        except FileNotFoundError:
            """No prune has looked yet."""
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as exc:
            log.warning("%s is ignored: %s", path, exc)

    def _load(self, document: Mapping[str, Any]) -> None:
        self._waits = {prune: list(runs) for prune, runs in document["waits"].items()}
        if document["boot"] == self._boot:
            self._beats = {n: (int(k), float(t)) for n, (k, t) in document["beats"].items()}

    def is_stale(self, name: str, beat: int) -> bool:
        """Return whether *beat* has been the newest one of *name* for a day; remember this look."""
        now = boot_clock()
        known = self._beats.get(name)
        if known is None or known[0] != beat or known[1] > now:
            self._beats[name] = beat, now
            return False
        return now - known[1] >= EXPIRY_SECONDS

    def awaited(self, prune: PruneId, intents: Iterable[RunId]) -> list[RunId]:
        """Return the runs that a prune waits for: those of its first look on this host."""
        return [RunId(run) for run in self._waits.setdefault(prune, sorted(intents))]

    def forget(self, prunes: Collection[PruneId], names: Collection[str]) -> None:
        """Drop everything but the looks at *names* and the waits of *prunes*."""
        self._waits = {prune: runs for prune, runs in self._waits.items() if prune in prunes}
        self._beats = {name: look for name, look in self._beats.items() if name in names}

    def save(self) -> None:
        """Write the state; a failure is logged."""
        document = {"boot": self._boot, "beats": self._beats, "waits": self._waits}
        try:
            replace(self._path, json.dumps(document).encode())
        except OSError as exc:
            log.warning("cannot write %s: %s", self._path, exc.strerror)
