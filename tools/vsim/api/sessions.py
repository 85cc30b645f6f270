"""Sessions: login, expiry and the objects that belong to a session."""

from collections.abc import Iterator
from hmac import compare_digest
from typing import Any
from uuid import uuid4

from tools.vsim.api.base import (
    ClientSession,
    ManagedObject,
    MethodCall,
    Properties,
    SessionObject,
    Site,
)
from tools.vsim.fault import Fault
from tools.vsim.model.world import World
from tools.vsim.soap.vmodl import long, vim

KEPT_ENDED = 64


class Sessions:
    """All open sessions. The world's lock covers the methods."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_key: dict[str, ClientSession] = {}
        self.ended: dict[str, SessionObject] = {}  # by id: objects of recently ended sessions

    def __iter__(self) -> Iterator[ClientSession]:
        return iter(list(self._by_key.values()))

    def open(self, name: str, password: str) -> ClientSession:
        """Open a session; raises InvalidLogin."""
        user = self._world.users.get(name)
        if user is None or not compare_digest(user.password.encode(), password.encode()):
            raise Fault(
                "vim.fault.InvalidLogin",
                "Cannot complete login due to an incorrect user name or password.",
            )
        now = self._world.monotonic()
        session = ClientSession(uuid4().hex, user, self._world.now(), now)
        self._by_key[session.key] = session
        return session

    def active(self, key: str | None) -> ClientSession | None:
        """Return the session with that key and mark it as used; None if it does not exist.

        A session that was idle for too long is closed here.
        """
        session = self._by_key.get(key) if key else None
        if session is None:
            return None
        now = self._world.monotonic()
        if now - session.last_active > self._world.knobs.session.idle_seconds:
            self.close(session)
            return None
        session.last_active = now
        session.calls += 1
        return session

    def close(self, session: ClientSession) -> None:
        """End the session and its objects."""
        self._by_key.pop(session.key, None)
        for held in session.objects.values():
            if isinstance(held, SessionObject):
                held.end()
                self.ended[held.moid] = held
        for moid in list(self.ended)[:-KEPT_ENDED]:
            del self.ended[moid]
        session.objects.clear()

    def close_all(self) -> None:
        """End all sessions."""
        for session in list(self._by_key.values()):
            self.close(session)


class SessionManager(ManagedObject):
    kind = vim.SessionManager

    def __init__(self, site: Site, moid: str, session: ClientSession | None = None) -> None:
        super().__init__(site, moid)
        self._session = session  # each session has its own manager, with its currentSession

    def properties(self) -> Properties:
        return {
            "currentSession": self._current,
            "sessionList": lambda: [_describe(session) for session in self.site.sessions],
            "message": lambda: "",
            "defaultLocale": lambda: "en",
        }

    def _current(self) -> Any:
        if self._session is None or not self.site.world.knobs.answer.current_session:
            return None
        return _describe(self._session)

    def Login(
        self, call: MethodCall, userName: str, password: str | None, locale: str | None
    ) -> Any:
        session = self.site.sessions.open(userName, password or "")
        self.site.furnish(session)
        call.opened = session
        return _describe(session)

    def Logout(self, call: MethodCall) -> None:
        if call.session:
            self.site.sessions.close(call.session)

    def SessionIsActive(self, call: MethodCall, sessionID: str, userName: str) -> bool:
        return any(
            session.key == sessionID and session.user.name == userName
            for session in self.site.sessions
        )

    def TerminateSession(self, call: MethodCall, sessionId: list[str]) -> None:
        doomed = [session for session in self.site.sessions if session.key in sessionId]
        if len(doomed) != len(set(sessionId)):
            raise Fault("vim.fault.NotFound", "The object or item referred to could not be found.")
        for session in doomed:
            self.site.sessions.close(session)


def _describe(session: ClientSession) -> Any:
    return vim.UserSession(
        key=session.key,
        userName=session.user.name,
        fullName=session.user.name,
        loginTime=session.login_time,
        lastActiveTime=session.login_time,
        locale="en",
        messageLocale="en",
        extensionSession=False,
        ipAddress="127.0.0.1",
        userAgent="",
        callCount=long(session.calls),
    )
