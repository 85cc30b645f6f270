"""A session that stays logged in; its callers state whether a call may be repeated.

The session stub of pyVmomi repeats every call after a lost connection, so CreateSnapshot_Task can
run twice. This module therefore uses the plain stub, with `repeat` and `once` for the two kinds of
calls.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from ssl import SSLCertVerificationError, SSLContext
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from pyVmomi import vim, vmodl

from cbtfs.errors import AccessDenied, CbtfsError, SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.secret import Secret
from cbtfs.source.transport.answers import AnswerLimits
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.web import Web
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.faults import (
    NO_ANSWER,
    ReplyLost,
    error_of,
    text_of,
    translated_faults,
)
from cbtfs.source.vsphere.connect.outage import Outage
from cbtfs.source.vsphere.connect.retry_policy import RetryPolicy
from cbtfs.source.vsphere.connect.service import connect
from cbtfs.source.vsphere.connect.tls import trusted_certificate, unreachable

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_LOGINS: Final = 3
"""Maximum number of renewals of the login within one call."""
_LOOK_SECONDS: Final = 0.2
"""Interval at which a pause checks whether the run is cancelled."""
_TRANSIENT: Final = (vim.fault.HostConnectFault, vim.fault.Timedout, vmodl.fault.HostCommunication)
"""Faults of a host that does not answer vCenter now."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password of a login."""

    user: str
    password: Secret


class Session:
    """A login to one server; safe to use from several threads.

    Managed objects stay valid when the login is renewed. Filters and views end with the login;
    their owner creates them again.
    """

    def __init__(
        self,
        address: Address,
        context: SSLContext,
        credentials: Credentials,
        retry_policy: RetryPolicy | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Log in; AccessDenied, or SourceUnavailable if no trusted vSphere server answers.

        After *stop* is set, the session does not wait for an unavailable server.
        """
        self.address = address
        self.context = context
        self.user = credentials.user
        self.retry_policy = retry_policy or RetryPolicy()
        self._password = credentials.password
        limits = AnswerLimits(self.retry_policy.call, self.retry_policy.max_bytes)
        self._instance = connect(address, context, self.retry_policy.reply, limits)
        self._lock = threading.Lock()
        self._logins = 0
        self._stop = stop or threading.Event()
        self._outage = Outage(str(address), self.retry_policy)
        self._denied: str | None = None
        self._ended = threading.Event()
        try:
            what = f"log in to {address}"
            with translated_faults(what):
                self.content: Any = self.repeat(self._instance.RetrieveServiceContent, what)
                self.repeat(lambda: self._renew(0), what)
        except BaseException:
            self._instance._stub.DropConnections()
            raise
        self._alive = threading.Thread(target=self._keep_alive, name="keep-alive", daemon=True)
        self._alive.start()

    # the server

    @property
    def server_id(self) -> str:
        """Unique id of the vCenter, or the address of a standalone host."""
        return str(self.content.about.instanceUuid or f"host:{self.address}")

    @property
    def is_vcenter(self) -> bool:
        return bool(self.content.about.apiType == "VirtualCenter")

    def now(self, what: str = "read the server's clock") -> datetime:
        """Return the time of the server's clock; *what* names the call in messages."""
        return cast(datetime, self.repeat(self._instance.CurrentTime, what))

    @property
    def is_stopping(self) -> bool:
        """The run is cancelled: the session does not wait for anything."""
        return self._stop.is_set()

    def pause(self, seconds: float) -> None:
        """Wait before a retry; raise Stopped at once when the run is cancelled."""
        if self._stop.wait(seconds):
            raise Stopped("interrupted")

    def wait(self, seconds: float) -> None:
        """Wait before a retry that is needed even if the run is cancelled, such as a removal.

        Only a cancellation during the wait ends it. So does the end of the session.
        """
        was_stopping, due = self._stop.is_set(), time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0:
            if self._ended.wait(min(left, _LOOK_SECONDS)):
                return
            if self._stop.is_set() and not was_stopping:
                return

    # for transports

    def web(self) -> Web:
        """Return the parameters for reading files and getting tickets in this session."""
        return Web(
            self.address.host,
            self.address.port,
            self.context,
            lambda: Secret(str(self._instance._stub.cookie)),
            lambda: self._logins,
            lambda login: self.repeat(lambda: self._renew(login), "log in again"),
            self.retry_policy.reply,
            self.retry_policy.connection,
            self._lend,
            disturbances=lambda: self.disturbances,
            outlast=self.outlast,
            call=self.retry_policy.call,
            version=self._instance._stub.versionId.strip('"'),
            busy=self.retry_policy.busy,
            sleep=self.pause,
        )

    @contextmanager
    def _lend(self) -> Iterator[HTTPSConnection]:
        """Lend a connection of the pool that pyVmomi's calls use, too."""
        stub = self._instance._stub
        connection = stub.GetConnection()
        try:
            yield connection
        except (OSError, HTTPException):
            connection.close()
            stub.DropConnections()  # the others have probably ended, too, as pyVmomi assumes
            raise
        except BaseException:
            connection.close()
            raise
        stub.ReturnConnection(connection)

    def vddk_login(self, libdir: Path, modes: str | None = None) -> VddkLogin:
        """Return the data with which VMware's library logs in as this session's user."""
        return VddkLogin(
            self.address.host,
            self.address.port,
            self.user,
            self._password,
            cookie=lambda: Secret(str(self._instance._stub.cookie).partition(";")[0].strip()),
            certificate=lambda: trusted_certificate(self.context),
            is_vcenter=self.is_vcenter,
            libdir=libdir,
            modes=modes,
            seconds=self.retry_policy.reply,
            pauses=self.retry_policy.busy,
            sleep=self.pause,
        )

    # calls

    def repeat(self, call: Callable[[], Result], what: str) -> Result:
        """Return the result of a *call* that may be carried out twice.

        The call is repeated after the end of the login, a lost connection or a transient fault;
        an unavailable server is waited for. Other faults of the call are raised unchanged.
        """
        pauses = self._pauses()
        faults = lost = 0
        while True:
            began = time.monotonic()
            try:
                result = self._logged_in(call)
            except NO_ANSWER as exc:
                self._outage.notice(lost, time.monotonic() - began)
                lost += 1
                pause = None if isinstance(exc, SSLCertVerificationError) else next(pauses, None)
                if pause is None:
                    raise unreachable(self.address, exc) from exc
                log.info("%s: %s", what, unreachable(self.address, exc))
            except vmodl.MethodFault as fault:
                self._outage.ends()
                if not isinstance(fault, _TRANSIENT) or faults == len(self.retry_policy.connection):
                    raise
                pause = self.retry_policy.connection[faults]
                faults += 1
                log.info("%s: %s", what, text_of(fault))
            else:
                self._outage.ends()
                return result
            self.wait(pause)

    def _pauses(self) -> Iterator[float]:
        """Yield the pauses between retries of an unanswered call; few before the first login."""
        for number, pause in enumerate(self._outage.pauses()):
            is_away = number >= len(self.retry_policy.connection)
            if is_away and (not self._logins or self._stop.is_set() or self._ended.is_set()):
                return
            yield pause

    @property
    def disturbances(self) -> int:
        """Number of outages and logins; an increase means that work may have been disturbed."""
        return self._outage.count + self._logins

    @property
    def is_lost(self) -> bool:
        """The server became unavailable and did not return in time."""
        return self._outage.is_lost

    def outlast(self, before: int) -> bool:
        """Wait until the server is available; return whether it was disturbed since *before*.

        Readers of datastore files use this to distinguish an outage from an error of one file.
        """
        try:
            self.now("wait for the server")
        except (vmodl.MethodFault, SourceUnavailable) as exc:
            log.info("the server is still unavailable: %s", exc)
            return False
        return self.disturbances != before

    def once(self, call: Callable[[], Result], what: str) -> Result:
        """Return the result of a *call* that must run at most once; ReplyLost if it is unknown."""
        try:
            return self._logged_in(call)
        except NO_ANSWER as exc:
            raise ReplyLost(f"{what}: {unreachable(self.address, exc)}") from exc

    def _logged_in(self, call: Callable[[], Result]) -> Result:
        """Make a call; repeat it if it was refused, and so not carried out, without a login."""
        for _ in range(_LOGINS):
            login = self._logins
            try:
                return call()
            except vim.fault.NotAuthenticated:
                self._renew(login)
        return call()

    def _renew(self, login: int) -> None:
        """Log in again, unless another thread has done so since login number *login*."""
        with self._lock:
            if self._logins != login:
                return
            if self._denied is not None:
                raise AccessDenied(self._denied)
            self._instance._stub.SetSessionId(None)
            try:
                self.content.sessionManager.Login(self.user, self._password.reveal())
            except vmodl.MethodFault as fault:
                error = error_of(fault, f"log in to {self.address}")
                if isinstance(fault, vim.fault.InvalidLogin):
                    self._denied = str(error)
                raise error from None  # the traceback must not lead to the password
            self._logins += 1

    # keep-alive and end

    def _keep_alive(self) -> None:
        while not self._ended.wait(self.retry_policy.login):
            try:
                self.now("keep the session alive")
            except (CbtfsError, vmodl.MethodFault) as exc:
                log.warning("the session with %s may end: %s", self.address, exc)

    def close(self) -> None:
        """Log out if the server is reachable, and end the session."""
        self._ended.set()
        self._alive.join()
        try:
            self.content.sessionManager.Logout()
        except (vmodl.MethodFault, *NO_ANSWER) as exc:
            log.debug("no logout: %s", type(exc).__name__)
        self._instance._stub.DropConnections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
