"""Work in a forked child of a warm process: no start-up cost, and the child can be killed.

The parent must never open a catalog, because LMDB does not survive a fork, and must not leave
threads running.
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

BUG: Final = 70
"""Exit code of a child that raised an unexpected exception."""
_write = os.write  # the original, before a child replaces it


@dataclass(frozen=True, slots=True)
class ChildExit:
    """Exit status of a child, and the messages that it sent."""

    code: int
    """Exit code, or the negative number of the signal that ended the child."""
    messages: list[Message]
    seconds: float
    """Time from the first message to the end."""

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def values(self, key: str) -> list[Any]:
        """Return the values of *key* in all messages."""
        return [message[key] for message in self.messages if key in message]


def run_child(
    work: Work, *, kill_after: float | None = None, before_kill: Callable[[], None] = lambda: None
) -> ChildExit:
    """Run *work* in a forked child and wait for its end.

    The child is killed *kill_after* seconds after its first message, unless it has ended before.
    *before_kill* is called just before the kill.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        run_as_child(work, writing)
    os.close(writing)
    try:
        messages, seconds = _listen(reading, child, kill_after, before_kill)
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    return ChildExit(os.waitstatus_to_exitcode(status), messages, seconds)


def run_as_child(work: Work, writing: int) -> None:
    """Run *work* in this process, which was forked; write messages to *writing*. Never return."""

    def send(message: Message) -> None:
        _write(writing, json.dumps(message).encode() + b"\n")

    for fault in (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV):
        signal.signal(fault, signal.SIG_DFL)  # other tests cover the handlers of cbtfs
    code = BUG
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
    """Return the messages that a child sends until it ends or is killed, and the seconds."""
    received = bytearray()
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
            return _parsed(bytes(received)), time.monotonic() - started
        received += data


def _parsed(received: bytes) -> list[Message]:
    whole = received[: received.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]
