"""Log in from a child process, with the session's cookie or else the password."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Final

from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.vddk import abi
from cbtfs.source.transport.vddk.child import ConnectSettings
from cbtfs.source.transport.vddk.process import ChildProcess, VixFailed

log = logging.getLogger(__name__)

_MODE: Final = re.compile(r"[a-z]{1,20}\Z")
TRANSIENT: Final = (
    abi.CONNECTION_LOST,
    abi.TCP_ERROR,
    abi.TCP_LOST,
    abi.SERVER_SHUTDOWN,
    abi.SERVER_NOT_AVAILABLE,
    abi.NO_HOST,
    abi.HOST_AWAY,
)
"""Error numbers of transient conditions: a host enters maintenance mode (since VDDK 7.0.1), a
connection is lost, a vCenter restarts or cannot reach a host, a host has no free NFC connection."""


def start_child(login: VddkLogin) -> ChildProcess:
    """Return a child that has loaded the library; raise SourceUnavailable."""
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

    VMware documents neither which versions accept a session cookie nor the error of the others.
    The password is therefore sent only after the cookie failed. AccessDenied if both fail.
    """
    cookie = login.cookie().reveal()
    password = login.password.reveal()
    child.hide([password, cookie, cookie.partition("=")[2].strip('"')])
    settings = ConnectSettings(
        server=login.server,
        port=login.port,
        nfc_port=login.nfc_port,
        thumbprint=login.thumbprint(),
        user=login.user,
        vm=vm,
    )
    child.call("login", **asdict(replace(settings, cookie=cookie)))
    try:
        first()
    except VixFailed as exc:
        if exc.number in TRANSIENT:
            raise
        log.info("VMware's library does not accept the session's cookie: %s", exc)
    else:
        return
    child.call("login", **asdict(replace(settings, password=password)))
    with denied():
        first()


@contextmanager
def denied() -> Iterator[None]:
    """Raise AccessDenied instead of an error about missing privileges."""
    try:
        yield
    except VixFailed as exc:
        if exc.number in (abi.ACCESS_DENIED, abi.NO_PERMISSION, abi.NO_SESSION):
            raise AccessDenied(
                f"{exc}: the user's role needs the privileges that docs/vsphere.md lists for VDDK"
            ) from exc
        raise


def open_disk(
    login: VddkLogin, vm: str, snapshot: str, path: str
) -> "tuple[ChildProcess, int, str]":
    """Return a child with an open disk, the size in sectors, and the effective transport mode."""
    child = start_child(login)
    try:
        log_in(
            child, login, vm, lambda: child.call("connect", snapshot=snapshot, modes=login.modes)
        )
        with denied():
            opened = child.words("open", path=path)
        sectors, mode = opened.get("sectors"), opened.get("mode")
        if not (isinstance(sectors, int) and sectors >= 0 and _MODE.match(str(mode))):
            raise SourceUnavailable("VMware's library reports no size or mode of the disk")
    except BaseException:
        child.end()
        raise
    return child, sectors, str(mode)
