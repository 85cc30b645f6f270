"""The kernel's end of a FUSE device, as a socket."""

import socket
import struct
import threading
import time
from collections.abc import Callable

from cbtfs.native import Chunks, Requests
from cbtfs.store.digest import prefixed_digest

_IN = struct.Struct("<IIQQIIIHH")
_READ = struct.Struct("<QQIIQII")
_SEEK = struct.Struct("<QQII")
_OUT = struct.Struct("<IiQ")
LOOKUP, FORGET, _READ_CODE, INTERRUPT, _SEEK_CODE = 1, 2, 15, 36, 46
INODE = 1 << 20


def request(opcode: int, unique: int, body: bytes = b"", inode: int = INODE) -> bytes:
    return _IN.pack(_IN.size + len(body), opcode, unique, inode, 0, 0, 0, 0, 0) + body


def read_request(unique: int, offset: int, length: int) -> bytes:
    return request(_READ_CODE, unique, _READ.pack(0, offset, length, 0, 0, 0, 0))


def seek_request(unique: int, offset: int, kind: int, inode: int = INODE) -> bytes:
    return request(_SEEK_CODE, unique, _SEEK.pack(0, offset, kind, 0), inode)


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Kernel:
    """The kernel's end of the device and pyfuse3's end of the session."""

    def __init__(self) -> None:
        self.device, self.server_device = _socket_pair()
        self.session, self.server_session = _socket_pair()
        for end in (self.device, self.session):
            end.settimeout(20)
        self.result: bytes | memoryview | int = b""
        self.prepare_seek: Callable[[int, int], int | None] = lambda inode, offset: None
        self.chunks = Chunks(1 << 20, prefixed_digest, False)
        self.requests = Requests(
            self.server_device.fileno(), self.server_session.fileno(), self.chunks
        )
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.requests.serve(
            lambda *_: False, lambda *_: self.result, lambda *request: self.prepare_seek(*request)
        )

    @property
    def serving_seconds(self) -> float:
        """CPU time of the thread that serves the device."""
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def ask(self, message: bytes) -> tuple[int, int, bytes]:
        """Return the reply to *message*: the request's number, the errno and the bytes."""
        self.device.send(message)
        length, error, unique, data = self._reply()
        assert length == _OUT.size + len(data)
        return unique, -error, data

    def _reply(self) -> tuple[int, int, int, bytes]:
        reply = self.device.recv(1 << 20)
        return (*_OUT.unpack_from(reply), reply[_OUT.size :])

    def close(self) -> None:
        """End serve(), which returns after pyfuse3 has closed its end of the session."""
        self.session.close()
        self.device.send(request(LOOKUP, 99))
        self._thread.join(20)
        assert not self._thread.is_alive()
        for end in (self.device, self.server_device, self.server_session):
            end.close()
