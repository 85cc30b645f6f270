"""Places of shared writers in memory, with faults on request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cbtfs.store.backend.base import FileBackend
from cbtfs.store.shared.looks import Looks
from cbtfs.store.shared.places import Places
from cbtfs.store.shared.presence import FilePresence
from tests.store.backends.memory import Memory

NAMES = ("points", "states", "logs", "intents", "prunes", "pins", "distrust")


@dataclass
class MemoryStore:
    """Objects of one repository; each program has places of its own."""

    looks: Path
    backends: dict[str, Memory] = field(default_factory=lambda: {n: Memory() for n in NAMES})

    def places(self, wrap: Callable[[str, FileBackend], FileBackend] = lambda _, b: b) -> Places:
        wrapped = {name: wrap(name, backend) for name, backend in self.backends.items()}
        return Places(
            wrapped["points"],
            wrapped["states"],
            wrapped["logs"],
            wrapped["intents"],
            wrapped["prunes"],
            wrapped["pins"],
            wrapped["distrust"],
            FilePresence(wrapped["points"], wrapped["intents"]),
            lambda: Looks(self.looks),
            lambda: None,
        )
