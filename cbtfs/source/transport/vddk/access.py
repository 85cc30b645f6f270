"""Disable storage vMotion of a VM from before its snapshot is taken until it is removed."""

import logging
import time

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.transport.base import Access, Held
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.vddk.login import TRANSIENT, log_in, start_child
from cbtfs.source.transport.vddk.process import ChildGone, ChildProcess, VixFailed

log = logging.getLogger(__name__)


class VddkAccess:
    """Calls PrepareForAccess and EndAccess in one child process per VM.

    If the parent is killed, the child ends the access itself. If the child is killed too, the next
    run ends the access.
    """

    def __init__(self, login: VddkLogin) -> None:
        self._login = login

    def hold(self, vm: str, identity: str) -> Held:
        hold = _Hold(self._login, vm, identity)
        why = "storage vMotion of the VM could not be disabled"
        try:
            hold.begin()
        except ChildGone as exc:  # the server may have disabled it before
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
    """One VM and the child process that holds it."""

    trouble = None

    def __init__(self, login: VddkLogin, vm: str, identity: str) -> None:
        self._login = login
        self._vm = vm
        self._identity = identity
        self._child: ChildProcess | None = None

    def begin(self) -> None:
        self._call(self._vm, "prepare", identity=self._identity)

    def clean(self) -> None:
        """Detach hot-added disks that a killed process left attached; the call names no VM."""
        try:
            self._call(None, "cleanup")
        except VixFailed as exc:
            log.info("%s", exc)

    def finish(self) -> None:
        """End the access with a new login, because the session may have been renewed."""
        self._call(self._vm, "end_access", identity=self._identity)

    def end(self) -> None:
        try:
            self.finish()
        except CbtfsError as exc:
            raise SourceUnavailable(f"storage vMotion of the VM is still disabled: {exc}") from exc
        finally:
            self.drop()

    def drop(self) -> None:
        """End the child process if it is running."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _call(self, vm: str | None, do: str, **words: str) -> None:
        """Make a call of the child; retry it after a transient error."""
        if self._child is None:
            self._child = start_child(self._login)
        child, pauses = self._child, list(self._login.pauses)
        while True:
            try:
                log_in(child, self._login, vm, lambda: child.call(do, **words))
                return
            except VixFailed as exc:
                if exc.number not in TRANSIENT or not pauses:
                    raise
                log.info("%s: retrying", exc)
            # A cancelled run must still end the access.
            (self._login.sleep if do == "prepare" else time.sleep)(pauses.pop(0))


class _NotHeld:
    """The result of a hold that the server refused."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def end(self) -> None:
        """Do nothing: the VM is not held."""


class _Uncertain:
    """The result of a hold without an answer: the VM may be held."""

    def __init__(self, hold: _Hold, trouble: str) -> None:
        self.trouble = trouble
        self._hold = hold
        hold.drop()

    def end(self) -> None:
        """End the hold if it exists; an error of the server means that it does not."""
        try:
            self._hold.finish()
        except VixFailed as exc:
            log.info("%s", exc)
        except CbtfsError as exc:
            raise SourceUnavailable(
                f"storage vMotion of the VM may still be disabled: {exc}"
            ) from exc
        finally:
            self._hold.drop()


def access_for(login: VddkLogin) -> Access | None:
    """Return None on a stand-alone host, where PrepareForAccess fails (Programming Guide)."""
    return VddkAccess(login) if login.is_vcenter else None
