"""The parent's side of a child process that runs VMware's library.

Only the child gets LD_LIBRARY_PATH, because the library brings its own OpenSSL and libstdc++. A
crash, a hang or an invalid answer of the child is raised as SourceUnavailable.
"""

import logging
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cbtfs import process
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.vddk import abi, frame
from cbtfs.source.transport.vddk.child import CLOSING_SECONDS, IN_FLIGHT
from cbtfs.source.transport.vddk.library import find_library
from cbtfs.source.transport.vddk.redact import redacted

log = logging.getLogger(__name__)

_PROGRAM: Final = "from cbtfs.source.transport.vddk.child import main; main(int(sys.argv[1]))"
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_LAST_LINES: Final = 20
_HINTS: Final[dict[tuple[str, int], str]] = {
    ("Open", abi.FAIL): ": the server's certificate may differ from the one that the session "
    "trusted",
    ("", abi.REFUSED): ": is port 902 of the VM's host open for this machine?",
    ("", abi.NO_MEMORY): ": the host's NFC service has no free buffers: capture fewer disks of "
    "this host at once",
}
_NAME: Final = re.compile(r"[A-Za-z]{0,40}\Z")
_ENDING_SECONDS: Final = 5.0


class VixFailed(SourceUnavailable):
    """Raised when a call of the library fails."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number
        """Error number of VDDK; 0 if the child could not carry out the request."""


class ChildGone(SourceUnavailable):
    """Raised when the process has ended, or was killed because it hung."""


class ChildProcess:
    """A child process; several threads may make calls, each with a timeout."""

    def __init__(self, libdir: Path, seconds: float) -> None:
        """Start the process; raise SourceUnavailable if the library cannot be used."""
        self._seconds = seconds
        self._secrets: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._pending: dict[int, Future[frame.VddkFrame]] = {}
        self._expected: dict[int, int] = {}
        self._next = 0
        self._why: str | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._slots = threading.BoundedSemaphore(IN_FLIGHT)
        try:
            self._stream, self._process = _started(libdir)
        except OSError as exc:
            raise SourceUnavailable(
                f"cannot start a process for VMware's library: {exc.strerror}"
            ) from exc
        self._threads = [
            threading.Thread(target=work, name=f"vddk {self._process.pid}", daemon=True)
            for work in (self._receive, self._log_stderr)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def hide(self, secrets: Iterable[str]) -> None:
        """Remove *secrets* from all further log lines of the process."""
        self._secrets = tuple(secrets)

    # requests

    def call(self, do: str, **words: Any) -> frame.VddkFrame:
        """Return the answer to a call; raise VixFailed or ChildGone."""
        tag, future = self._expect(None)
        with self._sending:
            self._send(lambda: frame.send_words(self._stream, frame.CALL, tag, {"do": do, **words}))
        return self._wait(tag, future, do)

    def words(self, do: str, **words: Any) -> dict[str, Any]:
        """Return the answer to a call as a JSON object."""
        try:
            return self.call(do, **words).words()
        except frame.FrameError as exc:
            raise self._give_up(f"VMware's library answers {do} with {exc}") from exc

    def read(self, start: int, count: int) -> memoryview:
        """Return *count* sectors; raise VixFailed or ChildGone."""
        with self._slots:
            tag, future = self._expect(count * abi.SECTOR)
            with self._sending:
                asked = frame.RANGE.pack(start, count)
                self._send(lambda: frame.send_frame(self._stream, frame.READ, tag, asked))
            return self._wait(tag, future, "read").payload

    def _expect(self, length: int | None) -> "tuple[int, Future[frame.VddkFrame]]":
        future: Future[frame.VddkFrame] = Future()
        with self._lock:
            if self._why is not None:
                raise ChildGone(self._why)
            self._next = (self._next + 1) & 0xFFFFFFFF
            self._pending[self._next] = future
            if length is not None:
                self._expected[self._next] = length
            return self._next, future

    def _send(self, send: Callable[[], None]) -> None:
        with suppress(frame.FrameError):  # the receiving thread reports it to the waiting one
            send()

    def _wait(self, tag: int, future: "Future[frame.VddkFrame]", what: str) -> frame.VddkFrame:
        try:
            return future.result(self._seconds)
        except Late:
            raise self._give_up(
                f"VMware's library hangs: no answer to {what} in {self._seconds:.0f} s"
            ) from None
        finally:
            with self._lock:
                self._pending.pop(tag, None)
                self._expected.pop(tag, None)

    # answers

    def _receive(self) -> None:
        """Deliver answers to the waiting threads; kill the process on an invalid frame."""
        cut_short = ""
        try:
            while (answer := frame.receive_frame(self._stream)) is not None:
                self._deliver(answer)
        except frame.StreamEnded as exc:
            cut_short = f" ({exc})"
            if not self._ends():
                self._process.kill()
                self._fail_all(f"VMware's library closed its connection: {exc}")
                return
        except frame.FrameError as exc:
            self._process.kill()
            self._fail_all(f"VMware's library sends {exc}")
            return
        self._process.wait()
        self._threads[1].join(_ENDING_SECONDS)
        is_crash = self._process.returncode < 0
        self._fail_all(self._exit_reason() + ("" if is_crash else cut_short))

    def _ends(self) -> bool:
        """Return whether the process ends after its stream; then its signal is the reason."""
        try:
            self._process.wait(_ENDING_SECONDS)
        except process.TimeoutExpired:
            return False
        else:
            return True

    def _deliver(self, answer: frame.VddkFrame) -> None:
        with self._lock:
            future = self._pending.get(answer.tag)
            length = self._expected.get(answer.tag)
        if future is None or future.done():
            raise frame.FrameError("an answer without a request")
        if answer.kind == frame.ERROR:
            future.set_exception(failure_in(answer, self._secrets))
        elif (answer.kind, length) == (frame.ANSWER, None) or (
            answer.kind == frame.DATA and length == len(answer.payload)
        ):
            future.set_result(answer)
        else:
            raise frame.FrameError("an answer of the wrong kind or length")

    def _fail_all(self, why: str) -> None:
        with self._lock:
            self._why = self._why or why
            waiting = list(self._pending.values())
            self._pending.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ChildGone(self._why))

    def _exit_reason(self) -> str:
        code = self._process.returncode
        if code >= 0:
            how = f"exited with code {code}"
        else:
            try:
                how = f"crashed ({signal.Signals(-code).name})"
            except ValueError:
                how = f"was killed by signal {-code}"
        line = self.last_line()
        return f"VMware's library {how}{f': {line}' if line else ''}"

    def _give_up(self, why: str) -> ChildGone:
        """Kill the process; return the error to raise."""
        with self._lock:
            self._why = self._why or why
        self._process.kill()
        return ChildGone(why)

    # log lines

    def _log_stderr(self) -> None:
        """Log the lines from stderr; lines of the child itself start with their level."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for raw in iter(lambda: stream.readline(8192), b""):
                text = redacted(raw.decode("utf-8", "replace"), self._secrets)
                level, _, line = text.partition(": ")
                if level not in _LEVELS:
                    level, line = "warning", text
                if level != "debug" and line:
                    self._lines.append(line)
                log.log(_LEVELS[level], "vddk %d: %s", self._process.pid, line)

    def last_line(self) -> str:
        """Return the last line above level debug; empty if there was none."""
        return self._lines[-1] if self._lines else ""

    # the end

    def close(self) -> None:
        """Close the disk and the library; SourceUnavailable if that fails."""
        try:
            self.call("close")
        finally:
            self.end()

    def end(self) -> None:
        """End the process and release its resources."""
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(CLOSING_SECONDS if self._why is None else _ENDING_SECONDS)
        except process.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(_ENDING_SECONDS)
        self._stream.close()


def failure_in(answer: frame.VddkFrame, secrets: tuple[str, ...]) -> VixFailed:
    """Return the error in a frame, without *secrets*; FrameError if it is malformed."""
    words = answer.words()
    call, text, said = (words.get(name) for name in ("call", "text", "said"))
    number = words.get("number")
    if not (isinstance(call, str) and isinstance(text, str) and isinstance(number, int)):
        raise frame.FrameError("an error without call, number or text")
    if not (_NAME.match(call) and isinstance(said, str)):
        raise frame.FrameError("an error with an invalid function name or log line")
    message = f"VixDiskLib_{call}: {text}" if call else text
    message += _HINTS.get((call, number)) or _HINTS.get(("", number), "")
    if number == abi.FAIL and said:  # the text is only "Unknown error"
        message += f" (its last log line: {said})"
    return VixFailed(redacted(message, secrets), number)


def _started(libdir: Path) -> "tuple[socket.socket, process.Popen[bytes]]":
    """Return the socket to a new child, and the child; a Ctrl-C does not reach it."""
    file = find_library(libdir)
    folder = libdir if file is None else file.folder
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            child = process.start(
                process.interpreter(_PROGRAM, str(theirs.fileno())),
                stderr=process.PIPE,
                env=process.environment(LD_LIBRARY_PATH=str(folder)),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return ours, child
