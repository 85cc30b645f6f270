"""Run cbtfs and signal it at a step.

Usage: python -m tests.ingest.audit.signal_at_step STEP SIGNAL WORDS
"""

import os
import signal
import sys
from typing import Any

from cbtfs.cli.main import main
from cbtfs.ingest import disk
from cbtfs.store.distrust import DistrustFolder
from cbtfs.store.points import PointFolder

STEPS = {
    "record": (DistrustFolder, "amend"),
    "capture": (disk, "capture"),
    "commit": (PointFolder, "commit"),
}
"""The function that the signal replaces: right after the record took effect, before the full scan,
or after the full scan."""

if __name__ == "__main__":
    step, number = sys.argv[1], signal.Signals[sys.argv[2]]
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def die(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)

    setattr(*STEPS[step], die)
    sys.exit(main(sys.argv[3:]))
