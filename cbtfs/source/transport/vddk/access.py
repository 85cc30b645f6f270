"""Holding a VM: storage vMotion is disabled from before its snapshot until after that is gone."""

import logging
import time

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.transport.base import Access, Held
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.vddk.login import PASSING, log_in, start_child
from cbtfs.source.transport.vddk.process import ChildProcess, VixFailed

log = logging.getLogger(__name__)


class VddkAccess:
    """PrepareForAccess and EndAccess, in a process of their own for each VM.

    When that process's parent is killed it ends the access by itself; when it is killed too, the
    next run ends it.
    """

    def __init__(self, login: VddkLogin) -> None:
        self._login = login

    def hold(self, vm: str, identity: str) -> Held:
        child: ChildProcess | None = None
        try:
            child = start_child(self._login)
            starting = child
            log_in(child, self._login, vm, lambda: starting.call("prepare", identity=identity))
        except CbtfsError as exc:
            if child is not None:
                child.end()
            return _NotHeld(f"storage vMotion of the VM could not be disabled: {exc}")
        return _Held(child, self._login, vm, identity)

    def end(self, vm: str, identity: str) -> None:
        child = start_child(self._login)
        try:
            try:
                log_in(child, self._login, None, lambda: child.call("cleanup"))
            except VixFailed as exc:  # it concerns disks that were hot-added alone
                log.info("%s", exc)
            log_in(child, self._login, vm, lambda: child.call("end_access", identity=identity))
        finally:
            child.end()


class _NotHeld:
    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def end(self) -> None:
        """Nothing is held."""


class _Held:
    trouble = None

    def __init__(self, child: ChildProcess, login: VddkLogin, vm: str, identity: str) -> None:
        self._child = child
        self._login = login
        self._vm = vm
        self._identity = identity

    def end(self) -> None:
        """Log in anew for it: the session may have been renewed since."""
        child = self._child
        pauses = list(self._login.pauses)
        try:
            while not self._has_ended(child, may_fail=bool(pauses)):
                time.sleep(pauses.pop(0))
        except CbtfsError as exc:
            raise SourceUnavailable(f"storage vMotion of the VM stays disabled: {exc}") from exc
        finally:
            child.end()

    def _has_ended(self, child: ChildProcess, *, may_fail: bool) -> bool:
        try:
            log_in(
                child,
                self._login,
                self._vm,
                lambda: child.call("end_access", identity=self._identity),
            )
        except VixFailed as exc:
            if exc.number in PASSING and may_fail:
                log.info("%s: tried again", exc)
                return False
            raise
        return True


def access_for(login: VddkLogin) -> Access | None:
    """On a host alone there is nothing to hold: PrepareForAccess fails there (the guide)."""
    return VddkAccess(login) if login.is_vcenter else None
