"""Work in a forked child of a warm process: no start-up to pay, and it can be killed at will.

The parent must never open a catalog (LMDB does not outlive a fork) nor leave threads running.
"""

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cbtfs.errors import CbtfsError

Message = dict[str, Any]
Send = Callable[[Message], None]
Work = Callable[[Send], None]

_BUG: Final = 70
_write = os.write  # as it is before a child tampers with it


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a child ended, and what it had said by then."""

    code: int
    """Exit code; negative: the signal that ended it."""
    messages: list[Message]
    seconds: float
    """From its first message on."""

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def values(self, key: str) -> list[Any]:
        """What it said about *key*."""
        return [message[key] for message in self.messages if key in message]


def run_child(
    work: Work, *, kill_after: float | None = None, before_kill: Callable[[], None] = lambda: None
) -> ChildExit:
    """Fork, let the child do *work*, wait for its end.

    It is killed *kill_after* seconds after its first message, unless it has ended by then;
    *before_kill* comes just before that.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_as_child(work, writing)
    os.close(writing)
    try:
        said, seconds = _listen(reading, child, kill_after, before_kill)
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    return ChildExit(os.waitstatus_to_exitcode(status), said, seconds)


def _run_as_child(work: Work, writing: int) -> None:
    def send(message: Message) -> None:
        _write(writing, json.dumps(message).encode() + b"\n")

    for fault in (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV):
        signal.signal(fault, signal.SIG_DFL)  # what the program makes of one is tried elsewhere
    code = _BUG
    try:
        work(send)
        code = 0
    except CbtfsError as exc:
        code = exc.exit_code
        send({"error": str(exc), "class": type(exc).__name__})
    except BaseException:
        send({"bug": traceback.format_exc()})
    finally:
        os._exit(code)


def _listen(
    reading: int, child: int, kill_after: float | None, before_kill: Callable[[], None]
) -> tuple[list[Message], float]:
    """All that the child says until it has ended, or is killed."""
    said = bytearray()
    started: float | None = None
    deadline: float | None = None
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([reading], [], [], left)
        if not ready:
            before_kill()
            os.kill(child, signal.SIGKILL)
            deadline = None
            continue
        data = os.read(reading, 1 << 16)
        if started is None:
            started = time.monotonic()
            deadline = None if kill_after is None else started + kill_after
        if not data:
            return _parsed(bytes(said)), time.monotonic() - started
        said += data


def _parsed(said: bytes) -> list[Message]:
    whole = said[: said.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]
