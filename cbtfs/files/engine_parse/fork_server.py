"""The server that forks parsers: it loads the modules of one parser, and gets no byte of a guest.

It has no filter, because a filter that allows fork() would allow it to the parsers, too.
"""

import ctypes
import gc
import os
import select
import signal
import socket
import sys
from typing import Final

from cbtfs.files.engine_parse.child import load_parser, serve
from cbtfs.files.engine_parse.fork_requests import (
    EXIT_CODE,
    REQUEST,
    REQUEST_BYTES,
    RUNNING,
    Operation,
)

_SET_PDEATHSIG: Final = 1
"""PR_SET_PDEATHSIG of linux/prctl.h."""
_WAIT_MILLISECONDS: Final = 1000


class _Server:
    """Forks processes and ends them, as its parent asks."""

    def __init__(self, control: socket.socket, kind: str) -> None:
        self._control = control
        self._kind = kind
        self._codes: dict[int, int | None] = {}
        """Exit codes of the processes that END has not released; None for one that may run."""

    def serve(self) -> None:
        """Answer requests until the parent closes its end."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, 1)
            if len(data) != REQUEST.size:
                return
            operation, number = REQUEST.unpack(data)
            match operation:
                case Operation.FORK:
                    reply = self._fork(descriptors[0], number)
                case Operation.WAIT:
                    reply = self._wait(number)
                case _:
                    reply = self._end(number)
            self._control.send(EXIT_CODE.pack(reply))

    def _fork(self, descriptor: int, size: int) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._control.close()
                serve(descriptor, self._kind, size)
                code = 0
            finally:
                os._exit(code)
        os.close(descriptor)
        self._codes[pid] = None
        return pid

    def _wait(self, pid: int) -> int:
        code = self._codes.get(pid, 0)
        if code is None:
            watched = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(watched, select.POLLIN)
                if not poll.poll(_WAIT_MILLISECONDS):
                    return RUNNING
            finally:
                os.close(watched)
            code = self._codes[pid] = _exit_code(pid)
        return code

    def _end(self, pid: int) -> int:
        code = self._codes.pop(pid, 0)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = _exit_code(pid)
        return code


def _exit_code(pid: int) -> int:
    """Wait for a child that ends, and return its exit code: negative for a signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main(descriptor: int, kind: str) -> None:
    """Serve the parent at the socket *descriptor*."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    load_parser(kind)
    gc.freeze()
    with socket.socket(fileno=descriptor) as control:
        _Server(control, kind).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
