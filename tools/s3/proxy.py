"""An HTTP proxy in front of an S3 server that delays, loses and falsifies replies.

    python -m tools.s3.proxy http://127.0.0.1:8333 --port 9000 --latency 0.03

Which requests fail follows from a seed and the number of the request.
"""

import argparse
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "proxy-connection"})
_BUSY: Final = b"<Error><Code>SlowDown</Code></Error>"
_ABSENT: Final = b"<Error><Code>NoSuchKey</Code></Error>"


class Fault(Enum):
    """How a request fails."""

    LOST = "lost"
    """It takes effect, and the connection is closed without a reply."""
    DROPPED = "dropped"
    """It has no effect, and the connection is closed without a reply."""
    BUSY = "busy"
    """It has no effect; the reply is 503."""
    BUSY_LATE = "busy-late"
    """It takes effect; the reply is 503."""
    SLOW = "slow"
    """Its reply comes late."""
    CUT = "cut"
    """The body of its reply ends early. A request without a body in the reply is lost."""
    STALE = "stale"
    """A GET or HEAD is answered with 404, although the object may exist. Others succeed."""


@dataclass
class Script:
    """What a proxy does with requests. May be changed while the proxy runs."""

    latency: float = 0.0
    """Seconds that each reply is delayed."""
    slow: float = 0.2
    """Seconds that a slow reply is delayed."""
    every: int = 0
    """Mean number of requests per fault; 0: no faults."""
    faults: tuple[Fault, ...] = tuple(Fault)
    seed: int = 0
    fails: dict[int, Fault] = field(default_factory=dict)
    """Faults of requests by number, counted from 1."""

    def fault(self, number: int) -> Fault | None:
        """Return how request *number* fails."""
        if number in self.fails:
            return self.fails[number]
        chance = random.Random(f"{self.seed} {number}")
        if self.every and chance.randrange(self.every) == 0:
            return chance.choice(self.faults)
        return None


class Proxy:
    """A proxy that runs; it counts requests by method."""

    def __init__(self, endpoint: str, script: Script | None = None, port: int = 0) -> None:
        """Serve on a port of the loopback interface, 0 for a free one."""
        host, _, upstream = endpoint.removeprefix("http://").partition(":")
        self.upstream = host, int(upstream)
        self.script = script or Script()
        self.counts: Counter[str] = Counter()
        self.faults: Counter[Fault] = Counter()
        self.bytes_sent = 0
        """Bytes of the bodies of replies."""
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def requests(self) -> int:
        return self.counts.total()

    def next_fault(self, method: str) -> Fault | None:
        """Count a request; return how it fails."""
        with self._lock:
            self.counts[method] += 1
            fault = self.script.fault(self.requests)
            if fault is not None:
                self.faults[fault] += 1
            return fault

    def count_bytes(self, count: int) -> None:
        with self._lock:
            self.bytes_sent += count

    def close(self) -> None:
        """Stop the proxy and close its connections."""
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()


@contextmanager
def proxy(endpoint: str, script: Script | None = None) -> Iterator[Proxy]:
    """Run a proxy until the end of the block."""
    running = Proxy(endpoint, script)
    try:
        yield running
    finally:
        running.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in [*self._open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that closes its connection is no error of the proxy."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def _pass_on(self) -> None:
        body = self._body()
        proxy = self.server.proxy
        fault = proxy.next_fault(self.command)
        time.sleep(proxy.script.latency + (proxy.script.slow if fault is Fault.SLOW else 0))
        if fault is Fault.STALE and self.command not in ("GET", "HEAD"):
            fault = None
        if fault is Fault.DROPPED:
            self._hang_up()
        elif fault is Fault.BUSY:
            self._reply(503, {}, _BUSY)
        elif fault is Fault.STALE:
            self._reply(404, {}, _ABSENT)
        else:
            status, headers, data = self._forward(body)
            if fault is Fault.LOST or (fault is Fault.CUT and len(data) < 2):
                self._hang_up()
            elif fault is Fault.BUSY_LATE:
                self._reply(503, {}, _BUSY)
            else:
                self._reply(status, headers, data, is_cut=fault is Fault.CUT)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("S3 clients send the length of a body")
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP | {"expect"}}
        try:
            self._upstream.request(self.command, self.path, body, headers)
            reply = self._upstream.getresponse()
        except (http.client.HTTPException, OSError):
            self._upstream.close()
            return 502, {}, b""
        return reply.status, dict(reply.getheaders()), reply.read()

    def _reply(
        self, status: int, headers: dict[str, str], data: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            part = data[: len(data) // 2] if is_cut else data
            self.server.proxy.count_bytes(len(part))
            self.wfile.write(part)
        if is_cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until the process is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint", help="URL of the server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds for each reply")
    parser.add_argument("--every", type=int, default=0, help="mean number of requests per fault")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    script = Script(arguments.latency, every=arguments.every, seed=arguments.seed)
    running = Proxy(arguments.endpoint, script, arguments.port)
    print(running.endpoint, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        running.close()


if __name__ == "__main__":
    main()
