"""The child process that runs VMware's library for one disk or one lock on a VM.

The main thread carries out the requests that the parent sends over a socket, one at a time. Reads
are asynchronous: the library has several at once, and each is answered when it completes. When the
parent ends for any reason, the child closes the disk and the connection and exits. Log lines of the
library go to stderr without secrets.
"""

import ctypes
import mmap
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NoReturn

from cbtfs.source.transport.vddk import abi, frame
from cbtfs.source.transport.vddk.library import Library, VixError, find_library
from cbtfs.source.transport.vddk.redact import redacted

IN_FLIGHT: Final = 4
"""Maximum number of concurrent reads; a host has few NFC buffers (VDDK Programming Guide, NBD)."""
MAX_READ: Final = 2 << 20
"""Maximum length of a read in bytes; longer ones through vCenter fail with NFC errors."""
CLOSING_SECONDS: Final = 30.0
"""Timeout for the library to shut down after the parent has ended."""
_PR_SET_DUMPABLE: Final = 4
_LOG_LINE: Final = 2000
"""Maximum length of a log line in bytes; writes below PIPE_BUF are atomic (pipe(7))."""
_SAID: Final = 300
"""Maximum length of the last log line that an error includes, in characters."""

Words = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConnectSettings:
    """Parameters of the library's connections, with either a password or a cookie."""

    server: str
    port: int
    nfc_port: int
    thumbprint: str
    user: str
    vm: str | None
    """Managed object id of the VM; None for calls that concern no VM."""
    password: str | None = field(default=None, repr=False)
    cookie: str | None = field(default=None, repr=False)


class Child:
    """The library and the handles that are open in the process."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._sending = threading.Lock()
        self._secrets: tuple[str, ...] = ()
        self._said = ""
        self._library: Library | None = None
        self._params: Any = None
        self._connection: Any = None
        self._disk: Any = None
        self._identity: bytes | None = None
        self._reads: _Reads | None = None

    def log(self, level: str, text: str) -> None:
        line = redacted(text, self._secrets)
        if level != "debug":
            self._said = line
        with suppress(OSError):  # the parent may be gone, and this may be a thread of the library
            os.write(2, f"{level}: {line}".encode()[:_LOG_LINE] + b"\n")

    def reply(self, kind: int, tag: int, *payload: bytes | memoryview) -> None:
        with self._sending:
            frame.send_frame(self._stream, kind, tag, *payload)

    def fail(self, tag: int, call: str, number: int, text: str) -> None:
        with self._sending:
            words: Words = {"call": call, "number": number}
            words |= {"text": redacted(text, self._secrets), "said": self._said[:_SAID]}
            frame.send_words(self._stream, frame.ERROR, tag, words)

    # requests

    def answer(self, request: frame.VddkFrame) -> None:
        """Carry out one request."""
        self._said = ""
        try:
            if request.kind == frame.READ:
                self._read(request)
                return
            words = request.words()
            done = self._CALLS[str(words.pop("do"))](self, **words)
        except VixError as exc:
            self.fail(request.tag, exc.call, exc.number, exc.text)
        except (OSError, KeyError, TypeError, ValueError) as exc:
            self.fail(request.tag, "", 0, str(exc) or type(exc).__name__)
        else:
            if isinstance(done, bytes):
                self.reply(frame.ANSWER, request.tag, done)
            else:
                with self._sending:
                    frame.send_words(self._stream, frame.ANSWER, request.tag, done)

    def load(self, libdir: str) -> Words:
        """Load and initialise the library; return the transport modes that it supports."""
        file = find_library(Path(libdir))
        if file is None:
            raise OSError(f"no libvixDiskLib in {libdir}")
        self._library = Library(file, self.log)
        return {"modes": (self._library.call("ListTransportModes") or b"").decode()}

    def login(self, **words: Any) -> Words:
        """Store the parameters of later connections, the members of ConnectSettings."""
        settings = ConnectSettings(**words)
        lib, cookie, password = self._loaded, settings.cookie, settings.password
        self._secrets += tuple(filter(None, (password, cookie, _value_of(cookie))))
        self._params = lib.params()
        params = self._params.contents
        params.vmxSpec = lib.keep(None if settings.vm is None else f"moref={settings.vm}")
        params.serverName = lib.keep(settings.server)
        params.thumbPrint = lib.keep(settings.thumbprint)
        params.port, params.nfcHostPort = settings.port, settings.nfc_port
        params.specType = abi.SPEC_VMX
        if cookie is not None:
            params.credType = abi.CREDENTIALS_SESSION
            params.creds.sessionId.cookie = lib.keep(cookie)
            params.creds.sessionId.userName = lib.keep(settings.user)
            params.creds.sessionId.key = lib.keep("")
        else:
            params.credType = abi.CREDENTIALS_USER
            params.creds.uid.userName = lib.keep(settings.user)
            params.creds.uid.password = lib.keep(password)
        return {}

    def prepare(self, identity: str) -> Words:
        self._loaded.check("PrepareForAccess", self._params, identity.encode())
        self._identity = identity.encode()
        return {}

    def end_access(self, identity: str) -> Words:
        self._loaded.check("EndAccess", self._params, identity.encode())
        self._identity = None
        return {}

    def cleanup(self) -> Words:
        """Detach hot-added disks that a crashed process left attached, without naming a VM."""
        cleaned, remaining = ctypes.c_uint32(), ctypes.c_uint32()
        self._loaded.check("Cleanup", self._params, ctypes.byref(cleaned), ctypes.byref(remaining))
        return {"cleaned": cleaned.value, "remaining": remaining.value}

    def connect(self, snapshot: str, modes: str | None) -> Words:
        lib, connection = self._loaded, ctypes.c_void_p()
        wanted = None if modes is None else modes.encode()
        lib.check(
            "ConnectEx", self._params, b"\x01", snapshot.encode(), wanted, ctypes.byref(connection)
        )
        self._connection = connection
        return {}

    def open_disk(self, path: str) -> Words:
        lib, disk = self._loaded, ctypes.c_void_p()
        lib.check("Open", self._connection, path.encode(), abi.OPEN_READ_ONLY, ctypes.byref(disk))
        self._disk = disk
        self._reads = _Reads(lib, disk, self)
        mode = (lib.call("GetTransportMode", disk) or b"").decode("utf-8", "replace")
        return {"sectors": lib.capacity(disk), "mode": mode}

    def allocated(self, start: int, count: int, chunk: int) -> bytes:
        lib = self._loaded
        if not lib.has("QueryAllocatedBlocks"):
            raise VixError("QueryAllocatedBlocks", abi.NOT_SUPPORTED, "the library predates 6.7")
        self._wait_reads()
        return lib.allocated(self._disk, start, count, chunk)

    def close(self) -> Words:
        """Close disk, connection and library; then raise the first error, if any."""
        lib, failed = self._library, None
        if lib is None:
            return {}
        steps: list[tuple[str, tuple[Any, ...]]] = []
        self._wait_reads()
        if self._disk is not None:
            steps.append(("Close", (self._disk,)))
        if self._connection is not None:
            steps.append(("Disconnect", (self._connection,)))
        if self._identity is not None:
            steps.append(("EndAccess", (self._params, self._identity)))
        self._disk = self._connection = self._identity = None
        for name, arguments in steps:
            try:
                lib.check(name, *arguments)
            except VixError as exc:
                failed = failed or exc
        lib.call("Exit")
        self._library = None
        if failed is not None:
            raise failed
        return {}

    def _wait_reads(self) -> None:
        """Wait for the reads in flight: the handle allows one call at a time."""
        if self._disk is not None and self._loaded.has("Wait"):
            self._loaded.call("Wait", self._disk)

    def _read(self, request: frame.VddkFrame) -> None:
        if self._reads is None or len(request.payload) != frame.RANGE.size:
            raise ValueError("no disk is open")
        start, count = frame.RANGE.unpack(request.payload)
        if not 0 < count * abi.SECTOR <= MAX_READ:
            raise ValueError(f"invalid length of a read: {count} sectors")
        self._reads.start(request.tag, start, count)

    @property
    def _loaded(self) -> Library:
        if self._library is None:
            raise ValueError("no library is loaded")
        return self._library

    _CALLS: Final[dict[str, Callable[..., Words | bytes]]] = {
        "load": load,
        "login": login,
        "prepare": prepare,
        "end_access": end_access,
        "cleanup": cleanup,
        "connect": connect,
        "open": open_disk,
        "allocated": allocated,
        "close": close,
    }


class _Reads:
    """The reads in flight, each with a buffer; one thread sends the results to the parent.

    Only one thread at a time may use a handle (VDDK Programming Guide, Multiple Threads), so the
    main thread starts all reads. Without ReadAsync it reads synchronously.
    """

    def __init__(self, library: Library, disk: Any, child: Child) -> None:
        self._library = library
        self._disk = disk
        self._child = child
        self._buffers = [mmap.mmap(-1, MAX_READ) for _ in range(IN_FLIGHT)]
        self._tags = [(0, 0)] * IN_FLIGHT
        self._free: SimpleQueue[int] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, int]] = SimpleQueue()
        for slot in range(IN_FLIGHT):
            self._free.put(slot)
        self._is_asynchronous = library.has("ReadAsync") and library.has("Wait")
        self._completed = abi.COMPLETION(lambda slot, error: self._done.put((slot or 0, error)))
        threading.Thread(target=self._send_results, daemon=True).start()

    def start(self, tag: int, start: int, count: int) -> None:
        """Start a read of *count* sectors; the answer is sent when it completes."""
        slot = self._free.get()
        self._tags[slot] = (tag, count * abi.SECTOR)
        at = ctypes.addressof(ctypes.c_char.from_buffer(self._buffers[slot]))
        error = abi.NOT_SUPPORTED
        if self._is_asynchronous:
            error = int(
                self._library.call("ReadAsync", self._disk, start, count, at, self._completed, slot)
            )
            if error == abi.ASYNC:
                return
        if abi.error_number(error) == abi.NOT_SUPPORTED:
            if self._is_asynchronous:
                self._library.call("Wait", self._disk)
                self._is_asynchronous = False
            error = int(self._library.call("Read", self._disk, start, count, at))
        self._done.put((slot, error))

    def _send_results(self) -> None:
        while True:
            slot, error = self._done.get()
            tag, length = self._tags[slot]
            try:
                if error == abi.OK:
                    with memoryview(self._buffers[slot]) as data:
                        self._child.reply(frame.DATA, tag, data[:length])
                else:
                    text = self._library.error_text(error)
                    self._child.fail(tag, "Read", abi.error_number(error), text)
            except frame.FrameError:
                pass  # the main thread gets the same error
            self._free.put(slot)


def _value_of(cookie: str | None) -> str | None:
    """Return the value of a cookie, which is a secret without its name, too."""
    return None if cookie is None else cookie.partition("=")[2].strip('"') or None


def _listen(stream: socket.socket, requests: "SimpleQueue[frame.VddkFrame | None]") -> None:
    """Queue the requests of the parent, also while the library is busy; None at their end."""
    try:
        while (request := frame.receive_frame(stream)) is not None:
            requests.put(request)
    except frame.FrameError:
        pass
    requests.put(None)
    time.sleep(CLOSING_SECONDS)  # usually the main thread exits first
    os._exit(1)


def _isolate() -> None:
    """Disable core dumps, which would contain secrets; ignore signals, which the parent handles."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main(descriptor: int) -> NoReturn:
    """Carry out the requests of the parent until it closes the socket; never return."""
    _isolate()
    requests: SimpleQueue[frame.VddkFrame | None] = SimpleQueue()
    stream = socket.socket(fileno=descriptor)
    child = Child(stream)
    threading.Thread(target=_listen, args=(stream, requests), daemon=True).start()
    code = 0
    while (request := requests.get()) is not None:
        try:
            child.answer(request)
        except frame.FrameError:
            break
    try:
        child.close()
    except VixError as exc:
        child.log("warning", f"{exc.call}: {exc.text}")
        code = 1
    os._exit(code)  # the library's threads may still run
