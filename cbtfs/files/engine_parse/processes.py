"""Processes of parsers, as their parent starts them: one by one, or forked by a server.

A fork server has loaded the modules of one parser and has no bytes of a guest. It forks a process
for each volume, which costs a millisecond or two instead of the start of an interpreter. Each of
these processes enters the sandbox by itself and parses one volume.
"""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from cbtfs import process
from cbtfs.files.engine_parse.fork_requests import (
    EXIT_CODE,
    REQUEST,
    REQUEST_BYTES,
    RUNNING,
    Operation,
)
from cbtfs.files.protocol import EngineFailed

_CHILD: Final = "cbtfs.files.engine_parse.child"
_SERVER: Final = "cbtfs.files.engine_parse.fork_server"
_REPLY_SECONDS: Final = 30.0
"""Longest time of a fork, or of the end of a killed process."""
_EXIT_SECONDS: Final = 1.0
"""Time between the end of a channel and the exit code of its process."""


class ParserProcess(Protocol):
    """A process that parses one volume."""

    pid: int
    channel: socket.socket
    """The parent's end of the socket on which it serves calls; see `frames`."""

    def exit_code(self) -> int | None:
        """Return the exit code of a process whose channel ended, negative for a signal.

        None if it has not ended.
        """

    def end(self) -> None:
        """Kill the process if it has not ended, and close the channel."""


class Parsers(Protocol):
    """A source of processes of one parser."""

    def start(self, size: int) -> ParserProcess:
        """Start a process for a volume of that size.

        Raises:
            OSError: it cannot be started.
            EngineFailed: the same, for another reason.
        """


class StartedParsers:
    """Starts an interpreter for each volume."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def start(self, size: int) -> ParserProcess:
        """Start a process for a volume of that size."""
        ours, theirs = socket.socketpair()
        with theirs, _closed_on_error(ours):
            words = str(theirs.fileno()), self._kind, str(size)
            return _Started(_start(_CHILD, theirs, *words), ours)


class _Started:
    """A process that is a child of this one."""

    def __init__(self, child: "process.Popen[bytes]", channel: socket.socket) -> None:
        self.pid = child.pid
        self.channel = channel
        self._child = child

    def exit_code(self) -> int | None:
        with contextlib.suppress(process.TimeoutExpired):
            return self._child.wait(_EXIT_SECONDS)
        return None

    def end(self) -> None:
        self.channel.close()
        self._child.kill()
        self._child.wait()


class ForkedParsers:
    """Starts a server at the first volume, which forks a process for each volume."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._child: process.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self, size: int) -> ParserProcess:
        """Fork a process for a volume of that size."""
        ours, theirs = socket.socketpair()
        with theirs, _closed_on_error(ours):
            control = self._started()
            pid = self.ask(control, Operation.FORK, size, [theirs.fileno()])
            return _Forked(pid, ours, self, control)

    def ask(
        self,
        control: socket.socket,
        operation: Operation,
        number: int,
        descriptors: Sequence[int] = (),
    ) -> int:
        """Return the reply of the server at the other end of *control*.

        Raises:
            EngineFailed: the server failed or was ended; the next start() starts another.
        """
        try:
            socket.send_fds(control, [REQUEST.pack(operation, number)], descriptors)
            reply = control.recv(REQUEST_BYTES)
            if len(reply) != EXIT_CODE.size:
                raise EOFError("it ended")
        except (OSError, EOFError) as exc:
            if control is self._control:
                self.close()
            raise EngineFailed(f"the server of parsers failed: {exc}") from exc
        (value,) = EXIT_CODE.unpack(reply)
        return int(value)

    def _started(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, _closed_on_error(ours):
                self._child = _start(_SERVER, theirs, str(theirs.fileno()), self._kind)
            ours.settimeout(_REPLY_SECONDS)
            self._control = ours
        return self._control

    def close(self) -> None:
        """End the server, and with it all processes that it has forked."""
        control, self._control = self._control, None
        child, self._child = self._child, None
        if control is not None:
            control.close()
        if child is not None:
            child.kill()
            child.wait()


class _Forked:
    """A process that a server has forked."""

    def __init__(
        self, pid: int, channel: socket.socket, parsers: ForkedParsers, control: socket.socket
    ) -> None:
        self.pid = pid
        self.channel = channel
        self._parsers = parsers
        self._control = control

    def exit_code(self) -> int | None:
        code = self._parsers.ask(self._control, Operation.WAIT, self.pid)
        return None if code == RUNNING else code

    def end(self) -> None:
        self.channel.close()
        with contextlib.suppress(EngineFailed):  # The process ended with its server.
            self._parsers.ask(self._control, Operation.END, self.pid)


class ParsersByKind:
    """Fork servers, one for each parser that is used."""

    def __init__(self) -> None:
        self._parsers: dict[str, ForkedParsers] = {}

    def __getitem__(self, kind: str) -> Parsers:
        return self._parsers.setdefault(kind, ForkedParsers(kind))

    def close(self) -> None:
        """End all servers."""
        for parsers in self._parsers.values():
            parsers.close()


def _start(module: str, channel: socket.socket, *words: str) -> "process.Popen[bytes]":
    return process.start(
        process.module(module, *words),
        stderr=process.DEVNULL,
        pass_fds=[channel.fileno()],
        start_new_session=True,
    )


@contextmanager
def _closed_on_error(channel: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        channel.close()
        raise
