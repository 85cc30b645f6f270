"""The process that holds the writer's lock, from its own record, and its current state."""

import json
import os
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
    """A process; *started* distinguishes it from a later one with the same pid."""

    pid: int
    host: str
    command: str
    since: str
    started: int
    """Clock ticks from boot to its start: field 22 of /proc/PID/stat (proc(5))."""

    @property
    def fate(self) -> Fate:
        """Current state of the process."""
        if self.host != os.uname().nodename:
            return "is on another host"
        state, started = _state_and_start(self.pid)
        if not state or started != self.started:
            return "has ended"
        return "is stopped" if state in "Tt" else "runs"

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host} since {self.since} ({self.command})"
        advice = {
            "runs": "",
            "is stopped": f", which is stopped: 'kill -CONT {self.pid}' continues it",
            "has ended": ", which has ended; a child of it still holds the lock",
            "is on another host": "",
        }
        return printable(who + advice[self.fate])


def _state_and_start(pid: int) -> tuple[str, int]:
    """Return state and start of a process; an empty state if it does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0


def describe_self() -> bytes:
    """Return the record of this process, for the next one."""
    since = format_moment(datetime.now(UTC).replace(microsecond=0))
    _, started = _state_and_start(os.getpid())
    command = " ".join(sys.argv)[:1000]
    return json.dumps(
        asdict(Holder(os.getpid(), os.uname().nodename, command, since, started))
    ).encode()


def parse_holder(text: bytes) -> Holder | None:
    """Return the process that *text* describes; None if it cannot be decoded."""
    try:
        record = json.loads(text)
        return Holder(
            int(record["pid"]),
            str(record["host"]),
            str(record["command"]),
            str(record["since"]),
            int(record["started"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
