"""Holding a VM: storage vMotion is disabled from before its snapshot until after that is gone."""

import logging
import time

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.transport.base import Access, Held
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.vddk.login import PASSING, log_in, start_child
from cbtfs.source.transport.vddk.process import ChildGone, ChildProcess, VixFailed

log = logging.getLogger(__name__)


class VddkAccess:
    """PrepareForAccess and EndAccess, in a process of their own for each VM.

    When that process's parent is killed it ends the access by itself; when it is killed too, the
    next run ends it.
    """

    def __init__(self, login: VddkLogin) -> None:
        self._login = login

    def hold(self, vm: str, identity: str) -> Held:
        hold = _Hold(self._login, vm, identity)
        why = "storage vMotion of the VM could not be disabled"
        try:
            hold.begin()
        except ChildGone as exc:  # before the server did it, or after
            return _Uncertain(hold, f"{why}: {exc}")
        except CbtfsError as exc:
            hold.drop()
            return _NotHeld(f"{why}: {exc}")
        return hold

    def end(self, vm: str, identity: str) -> None:
        hold = _Hold(self._login, vm, identity)
        try:
            hold.clean()
            hold.finish()
        finally:
            hold.drop()


class _Hold:
    """One VM, and the process that holds it."""

    trouble = None

    def __init__(self, login: VddkLogin, vm: str, identity: str) -> None:
        self._login = login
        self._vm = vm
        self._identity = identity
        self._child: ChildProcess | None = None

    def begin(self) -> None:
        self._patiently(self._vm, "prepare", identity=self._identity)

    def clean(self) -> None:
        """What a dead process left of disks that were hot-added; that is asked of no single VM."""
        try:
            self._patiently(None, "cleanup")
        except VixFailed as exc:
            log.info("%s", exc)

    def finish(self) -> None:
        """With a new login: the session may have been renewed since."""
        self._patiently(self._vm, "end_access", identity=self._identity)

    def end(self) -> None:
        try:
            self.finish()
        except CbtfsError as exc:
            raise SourceUnavailable(f"storage vMotion of the VM stays disabled: {exc}") from exc
        finally:
            self.drop()

    def drop(self) -> None:
        """The process is no more."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _patiently(self, vm: str | None, do: str, **words: str) -> None:
        """A call of the child; after an error that passes it is made again, and later."""
        if self._child is None:
            self._child = start_child(self._login)
        child, pauses = self._child, list(self._login.pauses)
        while True:
            try:
                log_in(child, self._login, vm, lambda: child.call(do, **words))
                return
            except VixFailed as exc:
                if exc.number not in PASSING or not pauses:
                    raise
                log.info("%s: tried again", exc)
            time.sleep(pauses.pop(0))


class _NotHeld:
    """The server said no."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def end(self) -> None:
        """Nothing is held."""


class _Uncertain:
    """No answer came: whether the VM is held is not known."""

    def __init__(self, hold: _Hold, trouble: str) -> None:
        self.trouble = trouble
        self._hold = hold
        hold.drop()

    def end(self) -> None:
        """End what may be held; the server says no if it is not."""
        try:
            self._hold.finish()
        except VixFailed as exc:
            log.info("%s", exc)
        except CbtfsError as exc:
            raise SourceUnavailable(f"storage vMotion of the VM may stay disabled: {exc}") from exc
        finally:
            self._hold.drop()


def access_for(login: VddkLogin) -> Access | None:
    """On a host alone there is nothing to hold: PrepareForAccess fails there (the guide)."""
    return VddkAccess(login) if login.is_vcenter else None
