"""The HTTPS server: /sdk for SOAP, /folder and /nfc for files, /vsim for the control channel."""

import logging
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tools.vsim.fault import Fault
from tools.vsim.server.dispatch import Dispatcher, Dropped, Reply
from tools.vsim.server.folder import Sending, refused
from tools.vsim.soap.reply import fault_reply

log = logging.getLogger(__name__)
PIECE = 1 << 20
Files = Callable[[str, Mapping[str, str]], Sending]  # path, headers
Control = Callable[[str, str, bytes, str], Reply]  # method, path, body, authorization


def document_type(levels: int) -> bytes:
    """Return a DOCTYPE with entities that expand to 10 to the power of *levels* bytes."""
    if not levels:
        return b""
    entities = ['<!ENTITY e0 "x">']
    entities += [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, levels + 1)]
    return f"<!DOCTYPE a [{''.join(entities)}]>".encode()


def padded(head: bytes, padding: int, body: bytes) -> Iterator[bytes]:
    """Yield a response with white space between the XML declaration and the body."""
    yield head
    while padding > 0:
        yield b" " * min(padding, PIECE)
        padding -= PIECE
    yield body


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Compress the pieces to one gzip member."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS + 16)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


class Stream(ssl.SSLSocket):
    """TLS socket that closes if the peer disconnects before the handshake; ssl.SSLSocket leaks."""

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError("the peer disconnected before the TLS handshake") from error


class HttpsServer(ThreadingHTTPServer):
    """HTTPS server with one thread per connection, which also does the TLS handshake."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
        dispatcher: Dispatcher,
        files: Mapping[str, Files],
        control: Control,
    ) -> None:
        super().__init__(address, _Exchange)
        self.tls = tls
        if tls:
            tls.sslsocket_class = Stream
        self.dispatcher = dispatcher
        self.files = files
        self.control = control
        self.is_away = False
        self.is_starting = False
        self._open: set[Any] = set()
        self._controlled: set[Any] = set()  # connections with a control request in progress
        self._lock = threading.Lock()
        self._serving: threading.Thread | None = None

    def serve(self) -> None:
        """Start a thread that accepts connections."""
        self._serving = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, name="https"
        )
        self._serving.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            stream = self.tls.wrap_socket(request, server_side=True) if self.tls else request
        except OSError as error:  # the client rejects the certificate, or speaks plain HTTP
            log.info("no TLS with %s: %s", client_address, error)
            return
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(stream)
        try:
            _Exchange(stream, client_address, self)
        except OSError as error:
            log.info("connection with %s ended: %s", client_address, error)
        finally:
            with self._lock:
                self._open.discard(stream)
            stream.close()

    def come_back(self) -> None:
        """Listen on the same port again after go_away()."""
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.is_away = False
        self.server_activate()
        self.serve()

    @contextmanager
    def controlling(self, stream: Any) -> Iterator[None]:
        """Keep a connection open until its control request is answered, whatever happens."""
        with self._lock:
            self._controlled.add(stream)
        try:
            yield
        finally:
            with self._lock:
                self._controlled.discard(stream)

    def go_away(self) -> None:
        """Close the port and every connection."""
        self.is_away = True
        if self._serving is not None:
            self.shutdown()
            self._serving.join()
        self.server_close()
        with self._lock:
            streams = self._open - self._controlled
        for stream in streams:
            try:
                stream.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("connection already closed: %s", error)


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # send headers and body in one segment
    server: HttpsServer

    def do_GET(self) -> None:
        if self._is_closed():
            return
        if self.path == "/sdk/vimServiceVersions.xml":
            try:
                self._send(self.server.dispatcher.versions())
            except Dropped:
                self._drop()
        elif self.path.startswith(tuple(self.server.files)):
            self._send_file(with_body=True)
        elif self.path.startswith("/vsim/"):
            self._control()
        else:
            self._send(Reply(404, b"not found", content_type="text/plain"))

    def do_HEAD(self) -> None:
        if not self._is_closed():
            self._send_file(with_body=False)

    def do_POST(self) -> None:
        if self._is_closed():
            return
        if self.path.startswith("/vsim/"):
            self._control()
        elif self.path in ("/sdk", "/sdk/"):
            self._soap(self._body())
        else:
            self._send(Reply(404, b"not found", content_type="text/plain"))

    def _is_closed(self) -> bool:
        """Drop or refuse the request if the server is away or starting; return whether it did.

        The control channel works while the server is starting.
        """
        if self.server.is_away:
            self._drop()
            return True
        if self.server.is_starting and not self.path.startswith("/vsim/"):
            self._body()
            self._send(Reply(503, b"starting", content_type="text/plain"))
            return True
        return False

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _soap(self, body: bytes) -> None:
        action = self.headers.get("SOAPAction", "")
        try:
            reply = self.server.dispatcher.answer(body, action, self.headers.get("Cookie", ""))
        except Dropped:
            self._drop()
            return
        except Exception as bug:  # end of the request: report a bug as a SOAP fault
            log.exception("bug in vsim")
            fault = Fault("vmodl.fault.SystemError", f"bug in vsim: {bug!r}", reason=repr(bug))
            reply = Reply(500, fault_reply(fault, "vim.version.version9"))
        if self.server.is_away:  # the call was carried out, its reply is lost
            self._drop()
        else:
            self._send_soap(reply)

    def _control(self) -> None:
        authorization = self.headers.get("Authorization", "")
        with self.server.controlling(self.connection):
            self._send(self.server.control(self.command, self.path, self._body(), authorization))
            self.wfile.flush()
        self.close_connection = self.close_connection or self.server.is_away

    def _send_soap(self, reply: Reply) -> None:
        """Send a SOAP reply, changed by the knobs of group `answer`."""
        knobs = self.server.dispatcher.knobs
        if not (knobs.entities or knobs.padding or knobs.gzip or knobs.drip_seconds):
            self._send(reply)
            return
        head, separator, body = reply.body.partition(b"?>")
        head += separator + document_type(knobs.entities)
        pieces = padded(head, knobs.padding, body)
        length = len(head) + knobs.padding + len(body)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        if knobs.gzip:
            pieces = compressed(pieces)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        if reply.cookie:
            self.send_header("Set-Cookie", reply.cookie)
        self.end_headers()
        if knobs.drip_seconds:
            pieces = (piece[at : at + 1] for piece in pieces for at in range(len(piece)))
        for piece in pieces:
            if knobs.drip_seconds:
                self.wfile.flush()
                time.sleep(knobs.drip_seconds)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if knobs.gzip else piece)
        if knobs.gzip:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if reply.cookie:
            self.send_header("Set-Cookie", reply.cookie)
        self.end_headers()
        self.wfile.write(reply.body)

    def _send_file(self, with_body: bool) -> None:
        services = (
            service for start, service in self.server.files.items() if self.path.startswith(start)
        )
        answer = next(services, lambda path, headers: refused(404, "not found"))
        sending = answer(self.path, dict(self.headers))
        self.send_response(sending.status)
        for name, value in sending.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(sending.length))
        self.end_headers()
        if not with_body:
            sending.close()
            return
        for piece in sending.pieces():
            self.wfile.write(piece)
        if sending.cut:
            self._drop()

    def _drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  name of the base class
        log.debug(format, *args)
