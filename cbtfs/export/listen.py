"""The socket of an export, opened here: QEMU would replace any file that has the socket's name."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cbtfs.core.names import printable
from cbtfs.errors import MountFailed, UsageError

SOCKET: Final = "nbd.sock"
_MAX_SOCKET_BYTES: Final = 107
"""Maximum length of the path of a Unix socket (unix(7))."""
_MAX_PORT: Final = 65535
_BACKLOG: Final = 64
_OTHERS: Final = 0o177


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and how clients name it."""

    descriptor: int
    _prefix: str
    _suffix: str

    def uri(self, export: str) -> str:
        """Return the URI of an export."""
        return f"{self._prefix}/{quote(export, safe='')}{self._suffix}"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; an IPv6 address has brackets. Port 0: any free one.

    Raises:
        UsageError: the text has another form.
    """
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if is_bracketed else host
    is_port = port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
    if not colon or not plain or not is_port or (":" in plain) != is_bracketed:
        raise UsageError(
            f"invalid --listen {printable(text)}: write HOST:PORT, for example 127.0.0.1:10809"
        )
    return plain, int(port)


@contextmanager
def tcp_listener(host: str, port: int) -> Iterator[Listener]:
    """Listen on the first address of *host*, for TLS.

    Raises:
        MountFailed: the address is unknown or in use.
    """
    shown = f"[{host}]" if ":" in host else host
    try:
        server = _bound(host, port)
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else None
        raise MountFailed(f"cannot listen on {printable(shown)}:{port}: {why or exc}") from exc
    with server:
        actual = server.getsockname()[1]
        yield Listener(server.fileno(), f"nbds://{shown}:{actual}", "")


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(family, kind, protocol))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(_BACKLOG)
        stack.pop_all()
    return server


@contextmanager
def unix_listener(directory: Path) -> Iterator[Listener]:
    """Listen on `nbd.sock` in *directory*, for this user only; remove the socket at the end.

    A socket that a killed command has left is replaced.

    Raises:
        UsageError: the directory or the name is unsuitable.
        MountFailed: the socket is in use.
    """
    path = Path(os.path.realpath(directory)) / SOCKET
    shown = printable(str(path))
    if len(os.fsencode(path)) > _MAX_SOCKET_BYTES:
        raise UsageError(
            f"the path of the socket, {shown}, is longer than {_MAX_SOCKET_BYTES} bytes: name "
            "another directory"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        with _locked(path.parent):
            _remove_stale(path)
            mask = os.umask(_OTHERS)
            try:
                server.bind(os.fsencode(path))
            except FileExistsError as exc:
                raise UsageError(f"{shown} exists: name another directory") from exc
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise UsageError(f"{shown} exists: name another directory") from exc
                raise UsageError(f"cannot make the socket {shown}: {exc.strerror}") from exc
            finally:
                os.umask(mask)
            server.listen(_BACKLOG)
            made = os.stat(path, follow_symlinks=False)
        try:
            yield Listener(server.fileno(), "nbd+unix://", f"?socket={quote(str(path))}")
        finally:
            with suppress(OSError), _locked(path.parent):
                if os.path.samestat(os.stat(path, follow_symlinks=False), made):
                    path.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock on *directory*, so that two commands do not replace the socket of each other."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        shown = printable(str(directory))
        raise UsageError(f"cannot open the directory {shown}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    """Remove a socket on which nobody listens.

    Raises:
        MountFailed: somebody listens.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            with suppress(OSError):
                path.unlink()
            return
        except OSError:
            pass  # Somebody listens, and the queue is full; or it belongs to another user.
    raise MountFailed(f"the socket {printable(str(path))} is in use: name another directory")
