"""Who holds the writer's lock, as that process wrote it down, and whether it still lives."""

import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cbtfs.core.moment import format_moment
from cbtfs.core.names import printable

Fate = Literal["runs", "is stopped", "has ended", "is on another host"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A process; *started* tells it from a later one with the same pid."""

    pid: int
    host: str
    command: str
    since: str
    started: int
    """Ticks from boot to its start: field 22 of /proc/PID/stat (proc(5))."""

    @property
    def fate(self) -> Fate:
        """What has become of it."""
        if self.host != socket.gethostname():
            return "is on another host"
        state, started = _look_at(self.pid)
        if not state or started != self.started:
            return "has ended"
        return "is stopped" if state in "Tt" else "runs"

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host} since {self.since} ({self.command})"
        advice = {
            "runs": "",
            "is stopped": f", which is stopped: 'kill -CONT {self.pid}' lets it go on",
            "has ended": ", which has ended and left a child that holds on",
            "is on another host": "",
        }
        return printable(who + advice[self.fate])


def _look_at(pid: int) -> tuple[str, int]:
    """State and start of a process; no state if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0


def describe_self() -> bytes:
    """This process, as the next one will read it."""
    since = format_moment(datetime.now(UTC).replace(microsecond=0))
    _, started = _look_at(os.getpid())
    command = " ".join(sys.argv)[:1000]
    return json.dumps(
        asdict(Holder(os.getpid(), socket.gethostname(), command, since, started))
    ).encode()


def parse_holder(text: bytes) -> Holder | None:
    """The process that *text* describes; None if it describes none."""
    try:
        found = json.loads(text)
        return Holder(
            int(found["pid"]),
            str(found["host"]),
            str(found["command"]),
            str(found["since"]),
            int(found["started"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
