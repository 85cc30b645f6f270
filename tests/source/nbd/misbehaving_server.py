"""An NBD server that misbehaves: it dies, stalls, or reports wrong sizes and extents."""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

from tools.vsim.data.nbd import Closed, Conversation, Export
from tools.vsim.knobs import DataKnobs
from tools.vsim.rules import ReadRule

Read = Callable[[int, int], ReadRule | None]


@dataclass
class Behaviour:
    """The faults of the server; they may be changed while it serves."""

    on_read: Read = lambda start, end: None
    holes: Literal["zero", "hole", "none"] = "zero"
    announced: list[int] = field(default_factory=list)
    """Sizes to report to consecutive connections, repeating the last; empty: the real size."""
    max_connections: int = 1 << 30
    """Connections beyond this are accepted and not answered, as by qemu-nbd beyond --shared."""


@dataclass
class _Export:
    fd: int
    size: int
    announced: int
    behaviour: Behaviour

    def on_read(self, start: int, end: int) -> ReadRule | None:
        return self.behaviour.on_read(start, end)

    def close(self) -> None:
        """Do nothing: other exports use the same file."""


class _Exports:
    def __init__(self, fd: int, behaviour: Behaviour, number: int) -> None:
        self._fd = fd
        self._behaviour = behaviour
        self._number = number

    @property
    def knobs(self) -> DataKnobs:
        return DataKnobs(holes=self._behaviour.holes)

    def names(self) -> list[str]:
        return [""]

    def open(self, name: str) -> Export:
        size = os.fstat(self._fd).st_size
        sizes = self._behaviour.announced or [size]
        announced = sizes[min(self._number, len(sizes) - 1)]
        return _Export(self._fd, size, announced, self._behaviour)


class _UnbufferedFile:
    """A socket as an unbuffered file, so that select() reports all data that has arrived."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.write = connection.sendall

    def read(self, length: int) -> bytes:
        return self._connection.recv(length, socket.MSG_WAITALL) if length else b""

    def flush(self) -> None:
        """Do nothing: the file is unbuffered."""


@dataclass
class MisbehavingServer:
    """A server of one file; it serves nothing after stop()."""

    uri: str
    behaviour: Behaviour
    connections: list[socket.socket] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    listener: socket.socket | None = None

    def stop(self) -> None:
        """Close all connections and accept no new ones."""
        self.ended.set()
        for open_socket in (*self.connections, self.listener):
            if open_socket is not None:
                with suppress(OSError):
                    open_socket.shutdown(socket.SHUT_RDWR)

    def is_another_request_waiting(self) -> bool:
        """Return whether a client has sent another request before the answer to the current one."""
        return bool(select.select(self.connections, [], [], 5)[0])


@contextmanager
def nbd_server(image: Path, behaviour: Behaviour | None = None) -> Iterator[MisbehavingServer]:
    path = str(image.with_suffix(".nbd"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = MisbehavingServer(
        f"nbd+unix:///?socket={path}", behaviour or Behaviour(), listener=listener
    )
    threads = []
    fd = os.open(image, os.O_RDONLY)

    def talk(connection: socket.socket, number: int) -> None:
        exports = _Exports(fd, server.behaviour, number)
        with suppress(Closed, OSError):
            if number >= server.behaviour.max_connections:
                server.ended.wait()
            Conversation(cast(BinaryIO, _UnbufferedFile(connection)), exports).run()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def listen() -> None:
        with suppress(OSError):
            while not server.ended.is_set():
                connection = listener.accept()[0]
                server.connections.append(connection)
                thread = threading.Thread(
                    target=talk, args=(connection, len(server.connections) - 1)
                )
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=listen)
    accepting.start()
    try:
        yield server
    finally:
        server.stop()
        accepting.join()
        for thread in threads:
            thread.join()
        for connection in server.connections:
            connection.close()
        listener.close()
        os.close(fd)
