"""A client of QMP, QEMU's protocol for control: JSON objects, one per line.

Source: QEMU's docs/interop/qmp-spec and its QAPI reference.
"""

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

from cbtfs.core.names import printable
from cbtfs.errors import MountFailed

_SECONDS: Final = 30.0
_MAX_LINE_BYTES: Final = 16 << 20
_PIECE: Final = 64 << 10


class QmpEnded(MountFailed):
    """Raised when QEMU closes the connection."""


class Qmp:
    """One connection. Events that arrive between answers are kept for events()."""

    def __init__(self, connection: socket.socket) -> None:
        """Negotiate; MountFailed if QEMU does not answer in time."""
        self._connection = connection
        self._buffer = bytearray()
        self._events: list[dict[str, Any]] = []
        self._answer(_SECONDS)
        self.execute("qmp_capabilities")

    def fileno(self) -> int:
        """Return the descriptor, which is readable if an event waits in the kernel."""
        return self._connection.fileno()

    def execute(
        self, command: str, arguments: dict[str, Any] | None = None, seconds: float = _SECONDS
    ) -> Any:
        """Execute a command; return its result.

        Raises:
            QmpEnded: QEMU ended.
            MountFailed: it refused the command, or did not answer in *seconds*.
        """
        document = {"execute": command, "arguments": arguments or {}}
        try:
            self._connection.sendall(json.dumps(document).encode() + b"\n")
        except OSError as exc:
            raise QmpEnded("QEMU ended") from exc
        answer = self._answer(seconds)
        if "error" in answer:
            why = printable(str(answer["error"].get("desc", "unknown error")))
            raise MountFailed(f"QEMU refused {command}: {why}")
        return answer.get("return")

    def events(self, seconds: float = 0.0) -> Iterator[dict[str, Any]]:
        """Yield events, in their order, that have arrived or arrive within *seconds*.

        Raises:
            QmpEnded: QEMU ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            yield from self._take_events()
            line = self._line(deadline)
            if line is None:
                return
            if "event" in line:
                self._events.append(line)

    def _take_events(self) -> Iterator[dict[str, Any]]:
        while self._events:
            yield self._events.pop(0)

    def _answer(self, seconds: float) -> dict[str, Any]:
        """Return the next object that is no event."""
        deadline = time.monotonic() + seconds
        while (line := self._line(deadline)) is not None:
            if "event" not in line:
                return line
            self._events.append(line)
        raise MountFailed(f"QEMU did not answer in {seconds:.0f} s")

    def _line(self, deadline: float) -> dict[str, Any] | None:
        """Return the next object; None if none arrives before *deadline*."""
        while b"\n" not in self._buffer:
            wait = max(0.0, deadline - time.monotonic())
            if not select.select([self._connection], [], [], wait)[0]:
                return None
            piece = b""
            with contextlib.suppress(ConnectionResetError):
                piece = self._connection.recv(_PIECE)
            if not piece:
                raise QmpEnded("QEMU ended")
            self._buffer += piece
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise MountFailed("QEMU sent a line without end")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            document = json.loads(line)
        except ValueError as exc:
            raise MountFailed("QEMU sent a line that is not JSON") from exc
        return document if isinstance(document, dict) else {}
