"""How a child process logs in: by the session's cookie, else by the password."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.vddk import abi
from cbtfs.source.transport.vddk.process import ChildProcess, VixFailed

log = logging.getLogger(__name__)

_MODE: Final = re.compile(r"[a-z]{1,20}\Z")
PASSING: Final = (
    abi.CONNECTION_LOST,
    abi.TCP_ERROR,
    abi.TCP_LOST,
    abi.SERVER_SHUTDOWN,
    abi.SERVER_NOT_AVAILABLE,
    abi.NO_HOST,
    abi.HOST_AWAY,
)
"""Errors that pass: a host goes into maintenance mode (since VDDK 7.0.1), a connection is lost, a
vCenter restarts or does not reach a host, a host has no NFC connection left."""


def start_child(login: VddkLogin) -> ChildProcess:
    """A child with the library loaded; SourceUnavailable."""
    child = ChildProcess(login.libdir, login.seconds)
    try:
        child.words("load", libdir=str(login.libdir))
    except BaseException:
        child.end()
        raise
    return child


def log_in(
    child: ChildProcess, login: VddkLogin, vm: str | None, first: Callable[[], object]
) -> None:
    """Set the credentials of *child* and make its *first* call that uses them.

    Which versions take a session's cookie is not documented, nor how the others refuse it, so the
    password is sent only after the cookie failed. AccessDenied if neither is taken.
    """
    cookie = login.cookie().reveal()
    password = login.password.reveal()
    child.hide([password, cookie, cookie.partition("=")[2].strip('"')])
    common = {
        "server": login.server,
        "port": login.port,
        "nfc_port": login.nfc_port,
        "thumbprint": login.thumbprint(),
        "user": login.user,
        "vm": vm,
    }
    child.call("login", **common, cookie=cookie, password=None)
    try:
        first()
    except VixFailed as exc:
        if exc.number in PASSING:
            raise
        log.info("VMware's library does not take the session's cookie: %s", exc)
    else:
        return
    child.call("login", **common, cookie=None, password=password)
    with denied():
        first()


@contextmanager
def denied() -> Iterator[None]:
    """An error of missing rights is AccessDenied."""
    try:
        yield
    except VixFailed as exc:
        if exc.number in (abi.ACCESS_DENIED, abi.NO_PERMISSION, abi.NO_SESSION):
            raise AccessDenied(
                f"{exc}: the user's role needs what docs/vsphere.md lists for VDDK"
            ) from exc
        raise


def open_disk(
    login: VddkLogin, vm: str, snapshot: str, path: str
) -> "tuple[ChildProcess, int, str]":
    """A child with a disk open, its size in sectors, and the way that is really used."""
    child = start_child(login)
    try:
        log_in(
            child, login, vm, lambda: child.call("connect", snapshot=snapshot, modes=login.modes)
        )
        with denied():
            opened = child.words("open", path=path)
        sectors, mode = opened.get("sectors"), opened.get("mode")
        if not (isinstance(sectors, int) and sectors >= 0 and _MODE.match(str(mode))):
            raise SourceUnavailable("VMware's library does not tell what it opened")
    except BaseException:
        child.end()
        raise
    return child, sectors, str(mode)
