"""The server for tools/vsim/vddk, the library with VDDK's ABI.

A request is one line of fields, separated by tabs. A response is a line `<error> <action> <length>`
and *length* bytes; error is a VDDK error code, and action is a fault that the library carries out
before it returns. Disk data comes from the exports of the NBD server, so that knobs and rules for
reads apply here too.
"""

import socketserver
import struct
from collections.abc import Callable
from typing import Any, Final

from tools.vsim.api.base import ClientSession
from tools.vsim.api.site import SimulatedSite
from tools.vsim.data.exports import SnapshotExport, SnapshotExports
from tools.vsim.data.serving import StoppableServer
from tools.vsim.fault import Fault
from tools.vsim.knobs import VddkKnobs
from tools.vsim.model.hidden import shown
from tools.vsim.model.image import data_spans, read_padded
from tools.vsim.model.span import Span
from tools.vsim.server.dispatch import COOKIE
from tools.vsim.server.https import HttpsServer
from tools.vsim.soap.certificate import Certificate

SECTOR: Final = 512
MOST: Final = 32 << 20
FAIL, NO_MEMORY, INVALID, FILE_NOT_FOUND, NOT_SUPPORTED, FILE_ERROR = 1, 2, 3, 4, 6, 7
PERMISSIONS, NO_SESSION, NO_SNAPSHOT = 3014, 3047, 13003
CONNECTION_LOST, NO_HOST = 14011, 18000
MODES: Final = ("file", "san", "hotadd", "nbdssl", "nbd")
FUNCTIONS: Final = {
    "prepare": "VixDiskLib_PrepareForAccess",
    "end": "VixDiskLib_EndAccess",
    "cleanup": "VixDiskLib_Cleanup",
    "connect": "VixDiskLib_ConnectEx",
    "open": "VixDiskLib_Open",
    "close": "VixDiskLib_Close",
    "read": "VixDiskLib_Read",
    "allocated": "VixDiskLib_QueryAllocatedBlocks",
}
"""Request names and the VDDK functions that rules match."""


class LibraryError(Exception):
    """Raised when a request fails with a VDDK error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class LibraryServer(StoppableServer):
    """Serves VDDK libraries. While vCenter is away, logins fail and open disks remain readable."""

    def __init__(
        self,
        address: tuple[str, int],
        site: SimulatedSite,
        vsphere: HttpsServer,
        certificate: Certificate,
        calls: list[str],
    ) -> None:
        """Prepare to serve on *address*.

        *vsphere* is the server that libraries log in to, with *certificate*. The names of called
        functions are appended to *calls*.
        """
        self.site = site
        self.vsphere = vsphere
        self.certificate = certificate
        self.calls = calls
        self.exports = SnapshotExports(site.world)
        super().__init__(address, _Library)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Library(socketserver.StreamRequestHandler):
    server: LibraryServer
    wbufsize = 1 << 20
    disable_nagle_algorithm = True

    def handle(self) -> None:
        connection = LibraryConnection(self.server)
        try:
            while line := self.rfile.readline(1 << 16):
                name, *fields = line.decode().rstrip("\n").split("\t")
                code, action, data = connection.answer(name, fields)
                self.wfile.write(b"%d %s %d\n" % (code, action.encode(), len(data)))
                self.wfile.write(data)
                self.wfile.flush()
                if code == CONNECTION_LOST:
                    return
        except (OSError, UnicodeDecodeError):
            return
        finally:
            connection.end()


class LibraryConnection:
    """The state of one library connection."""

    def __init__(self, server: LibraryServer) -> None:
        self._server = server
        self._site = server.site
        self._world = server.site.world
        self._session: ClientSession | None = None
        self._own_session = False
        self._snapshot = self._vm = self._mode = ""
        self._export: SnapshotExport | None = None

    @property
    def _knobs(self) -> VddkKnobs:
        return self._world.knobs.vddk

    def answer(self, name: str, fields: list[str]) -> tuple[int, str, bytes]:
        """Return error code, action and data."""
        caller = fields[0] if name == "login" and fields else FUNCTIONS.get(name, name)
        with self._world.changing():
            if name == "login":
                rule = None
            else:
                self._server.calls.append(caller)
                rule = self._world.knobs.rules.on_vddk(caller)
        if rule is not None:
            self._world.pause(rule.seconds)
            if rule.action == "error":
                return rule.code, "-", b"injected by a rule"
            if rule.action in ("hang", "crash"):
                return 0, rule.action, b""
        action = "crash" if rule is not None and rule.action == "crash-after" else "-"
        try:
            return 0, action, self._perform(name, fields)
        except LibraryError as error:
            return error.code, "-", str(error).encode()
        except Fault as fault:
            return FAIL, "-", str(fault).encode()
        except (ValueError, TypeError):
            return INVALID, "-", b"invalid request"

    def _perform(self, name: str, fields: list[str]) -> bytes:
        requests: dict[str, Callable[..., bytes]] = {
            "login": self._login,
            "prepare": self._prepare,
            "end": self._end_access,
            "cleanup": self._cleanup,
            "connect": self._connect,
            "open": self._open,
            "close": self._close,
            "read": self._read,
            "allocated": self._allocated,
        }
        if name != "login" and self._session is None:
            raise LibraryError(PERMISSIONS, "not logged in")
        return requests[name](*fields)

    # control

    def _login(self, caller: str, host: str, port: str, *credentials: str) -> bytes:
        """Log in; return the number of lines to log, and whether they contain secrets.

        *credentials* are kind, user, and password or cookie.
        """
        kind, user, secret = credentials
        vsphere = self._server.vsphere
        if vsphere.is_away or vsphere.is_starting or (host, int(port)) != vsphere.server_address:
            raise LibraryError(NO_HOST, f"vSphere does not answer at {host}:{port}")
        with self._world.changing():
            if kind == "session":
                if not self._knobs.sessions:
                    raise LibraryError(NOT_SUPPORTED, "session cookies are not supported")
                cookie = COOKIE.fullmatch(secret)
                self._session = self._site.sessions.active(cookie[1] if cookie else None)
                if self._session is None:
                    raise LibraryError(NO_SESSION, "the session does not exist")
            else:
                try:
                    self._session = self._site.sessions.open(user, secret)
                except Fault as fault:
                    raise LibraryError(PERMISSIONS, "wrong user or password") from fault
                self._own_session = True
        return b"%d %d" % (self._knobs.log_lines, self._knobs.log_secrets)

    def _require(self, *privileges: str) -> None:
        for privilege in privileges:
            if self._session is None or not self._session.allows(privilege):
                raise LibraryError(PERMISSIONS, f"privilege {privilege} is required")

    def _prepare(self, vm: str, identity: str) -> bytes:
        if not self._world.is_vcenter:
            raise LibraryError(NOT_SUPPORTED, "HostAgent is not a vCenter, cannot disable svMotion")
        self._require("Global.DisableMethods")
        with self._world.changing():
            self._machine(vm).disable_relocation(identity)
        return b""

    def _end_access(self, vm: str, identity: str) -> bytes:
        self._require("Global.EnableMethods")
        with self._world.changing():
            self._machine(vm).enable_relocation(identity)
        return b""

    def _cleanup(self) -> bytes:
        return b""

    def _machine(self, vm: str) -> Any:
        machine = self._world.machines.get(vm)
        if machine is None:
            raise LibraryError(INVALID, f"machine {vm} does not exist")
        return machine

    def _connect(self, vm: str, snapshot: str, modes: str) -> bytes:
        with self._world.lock:
            self._machine(vm)
        requested = modes.split(":") if modes else list(MODES)
        if not set(requested) <= set(MODES):
            raise LibraryError(INVALID, f"invalid transport modes {modes}")
        offered = [mode for mode in requested if mode in self._knobs.modes.split(":")]
        self._vm, self._snapshot = vm, snapshot
        self._mode = (
            offered[0] if offered else "nbdssl"
        )  # fallback even for a forced mode (Programming Guide)
        return b""

    def _open(self, thumbprint: str, path: str, flags: str) -> bytes:
        self._require("VirtualMachine.Provisioning.DiskRandomRead")
        if thumbprint.upper() != self._server.certificate.thumbprint_sha1:
            raise LibraryError(FAIL, "the thumbprint does not match the certificate")
        with self._world.lock:
            pair = self._world.snapshot(self._snapshot)
            if pair is None or pair[0].moid != self._vm:
                raise LibraryError(NO_SNAPSHOT, f"snapshot {self._snapshot} does not exist")
            state = next(
                (held for held in pair[1].disks if held.disk.path(held.link) == path), None
            )
            if state is None or state.truth is None:
                raise LibraryError(FILE_NOT_FOUND, f"disk {path} does not exist")
            links = 1 + (state.link.parent is not None)
            key = state.spec.key
        self._close()
        try:
            self._export = self._server.exports.open(f"{self._vm}/{self._snapshot}/{key}")
        except PermissionError as error:
            raise LibraryError(NO_HOST, "the host has no free NFC connection") from error
        if self._export is None:
            raise LibraryError(NO_SNAPSHOT, f"snapshot {self._snapshot} does not exist")
        sectors = self._export.announced // SECTOR
        return f"{sectors} {links} {self._mode} {int(self._knobs.asynchronous)}".encode()

    def _close(self) -> bytes:
        if self._export is not None:
            self._export.close()
            self._export = None
        return b""

    def end(self) -> None:
        """Close the disk and the session after the connection ended."""
        self._close()
        if self._own_session and self._session is not None:
            with self._world.changing():
                self._site.sessions.close(self._session)

    # data

    def _opened(self) -> SnapshotExport:
        if self._export is None:
            raise LibraryError(INVALID, "no disk is open")
        return self._export

    def _read(self, start: str, count: str) -> bytes:
        export, offset, length = self._opened(), int(start) * SECTOR, int(count) * SECTOR
        limit = self._knobs.nfc_limit or MOST
        if length > limit:
            raise LibraryError(
                NO_MEMORY,
                f"NFC error 5 from server: Failed to allocate the requested {length} bytes",
            )
        if not 0 <= offset < offset + length <= export.announced:
            raise LibraryError(INVALID, "range is outside the disk")
        rule = export.on_read(offset, offset + length)
        if rule is not None and rule.action == "eio":
            raise LibraryError(FILE_ERROR, "injected")
        if rule is not None and rule.action in ("close", "short"):
            raise LibraryError(CONNECTION_LOST, "connection lost")
        return read_padded(export.fd, offset, length)

    def _allocated(self, start: str, count: str, chunk: str) -> bytes:
        """Return first sector and sector count of each allocated block, in whole chunks."""
        if self._knobs.allocated == "unsupported":
            raise LibraryError(NOT_SUPPORTED, "QueryAllocatedBlocks is not supported")
        export, size = self._opened(), int(chunk) * SECTOR
        begin, end = int(start) * SECTOR, (int(start) + int(count)) * SECTOR
        blocks: list[Span] = []
        misses = self._world.knobs.data.allocation_misses
        for span in shown(data_spans(export.fd, min(end, export.size), begin), misses):
            first = begin + (span.start - begin) // size * size
            last = begin + -(-(span.end - begin) // size) * size
            if blocks and first <= blocks[-1].end:
                blocks[-1] = Span(blocks[-1].start, max(blocks[-1].end, last))
            else:
                blocks.append(Span(first, last))
        if self._knobs.allocated == "malformed":
            blocks.append(Span(end, end + size))
        return b"".join(
            struct.pack("<QQ", span.start // SECTOR, span.length // SECTOR) for span in blocks
        )
