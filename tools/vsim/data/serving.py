"""A TCP server that closes its connections when it stops."""

import contextlib
import socket
import socketserver
import threading
from typing import Any


class StoppableServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves each connection in a thread; stop() ends all connections."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Any, handler: type[socketserver.BaseRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)

    def stop(self) -> None:
        """Close the port and every connection."""
        self.shutdown()
        self.server_close()
        with self._lock:
            streams = list(self._open)
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
