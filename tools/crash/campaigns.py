"""All campaigns by name, each with a short form for tests and a long form."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.crash.bits import bits
from tools.crash.disks import full, power
from tools.crash.kills import calls, kills
from tools.crash.mounts import mounts
from tools.crash.overlays import overlays
from tools.crash.pages import pages
from tools.crash.replay import replay
from tools.crash.result import CampaignResult
from tools.crash.together import together
from tools.crash.write_log import write_log
from tools.crash.writers import writers


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """A campaign and its numbers of rounds."""

    run: Callable[[Path, int, int], CampaignResult]
    short: int
    long: int
    about: str


CAMPAIGNS: Final = {
    "kills": CampaignSpec(
        kills, 40, 1000, "SIGKILL at random moments of ingest, forget, prune, repair"
    ),
    "calls": CampaignSpec(
        calls, 0, 3, "the N-th call fails or kills, for every N; count: actions; 0: every fourth N"
    ),
    "pages": CampaignSpec(
        pages, 0, 3, "the N-th call of LMDB fails, for every N; count: failures; 0: every eighth N"
    ),
    "replay": CampaignSpec(
        replay, 80, 2000, "crash states of recorded calls with lost and torn writes"
    ),
    "power": CampaignSpec(power, 10, 300, "power cuts on ext4 and XFS, half on each"),
    "full": CampaignSpec(full, 5, 100, "full disks, then forget and prune to free space"),
    "bits": CampaignSpec(bits, 120, 10_000, "flipped bits and damaged pages anywhere"),
    "mounts": CampaignSpec(
        mounts, 12, 500, "workers and mounts killed under fio and a loop device"
    ),
    "overlays": CampaignSpec(
        overlays, 3, 250, "processes of an overlay killed, or its power cut, under flushed writes"
    ),
    "write-log": CampaignSpec(
        write_log, 5, 50, "power cuts of the image of an overlay, from the log of its writes"
    ),
    "together": CampaignSpec(
        together, 12, 1800, "readers during all operations of a writer; count: seconds"
    ),
    "writers": CampaignSpec(
        writers, 30, 2000, "writers and prunes at once, killed and stopped; count: programs"
    ),
}
