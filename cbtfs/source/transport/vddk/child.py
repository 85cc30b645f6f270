"""The process that has VMware's library in it: one disk, or one lock on a VM.

It does what its parent asks for over a socket, one call after the other on its main thread; reads
are handed to the library, several at a time, and answered as they complete. When the parent is
gone, however that came about, it closes what it opened and ends. What the library logs goes to
stderr, a line at a time, without secrets.
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
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NoReturn

from cbtfs.source.transport.vddk import abi, frame
from cbtfs.source.transport.vddk.library import Library, VixError, find_library
from cbtfs.source.transport.vddk.redact import redacted

IN_FLIGHT: Final = 4
"""Reads that the library has at once; NFC buffers are few (VDDK Programming Guide, NBD)."""
MAX_READ: Final = 2 << 20
"""Bytes; more through vCenter fails with NFC errors."""
CLOSING_SECONDS: Final = 30.0
"""For the library to end in good order when the parent is gone."""
_PR_SET_DUMPABLE: Final = 4
_LOG_LINE: Final = 2000
"""Bytes; a line below PIPE_BUF is written whole, whatever other threads write (pipe(7))."""
_SAID: Final = 300
"""Characters of the last warning that go with an error."""

Words = dict[str, Any]


class Child:
    """What the process has open."""

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

    # what a parent may ask for

    def answer(self, asked: frame.VddkFrame) -> None:
        """Carry out one frame."""
        self._said = ""
        try:
            if asked.kind == frame.READ:
                self._read(asked)
                return
            words = asked.words()
            done = self._CALLS[str(words.pop("do"))](self, **words)
        except VixError as exc:
            self.fail(asked.tag, exc.call, exc.number, exc.text)
        except (OSError, KeyError, TypeError, ValueError) as exc:
            self.fail(asked.tag, "", 0, str(exc) or type(exc).__name__)
        else:
            if isinstance(done, bytes):
                self.reply(frame.ANSWER, asked.tag, done)
            else:
                with self._sending:
                    frame.send_words(self._stream, frame.ANSWER, asked.tag, done)

    def load(self, libdir: str) -> Words:
        """Load and initialise the library; the ways that it knows."""
        file = find_library(Path(libdir))
        if file is None:
            raise OSError("no libvixDiskLib is there")
        self._library = Library(file, self.log)
        return {"modes": (self._library.call("ListTransportModes") or b"").decode()}

    def login(
        self,
        *,
        server: str,
        port: int,
        nfc_port: int,
        thumbprint: str,
        user: str,
        password: str | None,
        cookie: str | None,
        vm: str | None,
    ) -> Words:
        """Have the parameters of connections ready; nothing is sent yet."""
        lib = self._loaded
        self._secrets += tuple(each for each in (password, cookie, _value_of(cookie)) if each)
        self._params = lib.params()
        params = self._params.contents
        params.vmxSpec = lib.keep(None if vm is None else f"moref={vm}")
        params.serverName = lib.keep(server)
        params.thumbPrint = lib.keep(thumbprint)
        params.port, params.nfcHostPort = port, nfc_port
        params.specType = abi.SPEC_VMX
        if cookie is not None:
            params.credType = abi.CREDENTIALS_SESSION
            params.creds.sessionId.cookie = lib.keep(cookie)
            params.creds.sessionId.userName = lib.keep(user)
            params.creds.sessionId.key = lib.keep("")
        else:
            params.credType = abi.CREDENTIALS_USER
            params.creds.uid.userName = lib.keep(user)
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
        """What a process that crashed left of its hot-added disks; the parameters have no VM."""
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
            raise VixError("QueryAllocatedBlocks", abi.NOT_SUPPORTED, "older than 6.7")
        self._wait_reads()
        return lib.allocated(self._disk, start, count, chunk)

    def close(self) -> Words:
        """Close all, in order; the first error of that comes out when all is done."""
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
        """No read is under way: the handle is free for another call."""
        if self._disk is not None and self._loaded.has("Wait"):
            self._loaded.call("Wait", self._disk)

    def _read(self, asked: frame.VddkFrame) -> None:
        if self._reads is None or len(asked.payload) != frame.RANGE.size:
            raise ValueError("no disk is open")
        start, count = frame.RANGE.unpack(asked.payload)
        if not 0 < count * abi.SECTOR <= MAX_READ:
            raise ValueError("a read of that length")
        self._reads.start(asked.tag, start, count)

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
    """Reads that are under way: a buffer for each, handed on by whichever thread completes it.

    A handle has one reader at a time (VDDK Programming Guide, Multiple Threads), so all reads are
    started by the main thread; without ReadAsync it makes them itself.
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
        threading.Thread(target=self._hand_on, daemon=True).start()

    def start(self, tag: int, start: int, count: int) -> None:
        """Read so many sectors; the answer is sent when they are there."""
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

    def _hand_on(self) -> None:
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
                pass  # the main thread learns of it, too
            self._free.put(slot)


def _value_of(cookie: str | None) -> str | None:
    """The cookie's value alone is a secret as well."""
    return None if cookie is None else cookie.partition("=")[2].strip('"') or None


def _listen(stream: socket.socket, asked: "SimpleQueue[frame.VddkFrame | None]") -> None:
    """Take in what the parent sends, even while the library is busy; None when it is gone."""
    try:
        while (found := frame.receive_frame(stream)) is not None:
            asked.put(found)
    except frame.FrameError:
        pass
    asked.put(None)
    time.sleep(CLOSING_SECONDS)  # the main thread ends the process before
    os._exit(1)


def _shut_in() -> None:
    """No core dumps, which would have secrets in them; signals are for the parent to act on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main(descriptor: int) -> NoReturn:
    """Serve the parent at the other end of a socket, until it is gone or has closed all."""
    _shut_in()
    asked: SimpleQueue[frame.VddkFrame | None] = SimpleQueue()
    stream = socket.socket(fileno=descriptor)
    child = Child(stream)
    threading.Thread(target=_listen, args=(stream, asked), daemon=True).start()
    code = 0
    while (found := asked.get()) is not None:
        try:
            child.answer(found)
        except frame.FrameError:
            break
    try:
        child.close()
    except VixError as exc:
        child.log("warning", f"{exc.call}: {exc.text}")
        code = 1
    os._exit(code)  # the library's threads may still run
