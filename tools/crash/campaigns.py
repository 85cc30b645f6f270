"""The campaigns, by name, each with a short form for tests and a long one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.crash.bits import bits
from tools.crash.disks import full, power
from tools.crash.kills import calls, kills
from tools.crash.mounts import mounts
from tools.crash.pages import pages
from tools.crash.replay import replay
from tools.crash.result import Result
from tools.crash.together import together


@dataclass(frozen=True, slots=True)
class Named:
    """A campaign, and how much of it there is."""

    run: Callable[[Path, int, int], Result]
    short: int
    long: int
    about: str


CAMPAIGNS: Final = {
    "kills": Named(kills, 100, 1000, "SIGKILL at random moments of ingest, forget, prune, repair"),
    "calls": Named(calls, 1, 3, "the N-th call fails or is the last, for every N; count: actions"),
    "pages": Named(pages, 1, 3, "the N-th call of LMDB fails, for every N; count: ways to fail"),
    "replay": Named(
        replay, 200, 2000, "recorded calls, cut off with lost and torn writes and names"
    ),
    "power": Named(power, 20, 300, "power cuts on ext4 and XFS, half of them on each"),
    "full": Named(full, 10, 100, "full disks, then forget and prune to freedom"),
    "bits": Named(bits, 300, 10_000, "flipped bits and damaged pages, anywhere"),
    "mounts": Named(mounts, 20, 500, "workers and mounts killed under fio and a loop device"),
    "together": Named(together, 60, 1800, "readers beside a writer that does it all; seconds"),
}
