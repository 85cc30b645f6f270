"""Run tasks that may run twice, and retry them while another operation blocks them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pyVmomi import vim, vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.connect.faults import error_of, text_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task import TaskGone, wait_task

log = logging.getLogger(__name__)

_TRANSIENT = (
    vim.fault.TaskInProgress,
    vim.fault.ConcurrentAccess,
    vim.fault.FileLocked,
    vim.fault.MethodDisabled,
    vim.fault.InvalidState,
    vmodl.fault.HostCommunication,
)
_PERMANENT = (vim.fault.InvalidPowerState, vim.fault.QuestionPending)


def is_transient(fault: Any) -> bool:
    """Return whether the same call can succeed later without any intervention."""
    return isinstance(fault, _TRANSIENT) and not isinstance(fault, _PERMANENT)


def wait_before_retry(session: Session, fault: Any, what: str, pause: float) -> None:
    """Wait for the task that *fault* names, or *pause* seconds if it names none."""
    log.info("%s: %s; retrying", what, text_of(fault))
    other = getattr(fault, "task", None)
    if other is not None:
        try:
            wait_task(session, other, "wait for the other operation")
        except (vmodl.MethodFault, TaskGone) as ended:
            log.debug("the other operation ended: %s", type(ended).__name__)
        else:
            return
    session.wait(pause)


def run_task(
    session: Session, start: Callable[[], Any], what: str, pauses: Sequence[float] | None = None
) -> Any:
    """Return the result of the task that *start* starts, which may run twice.

    A permanent fault, or the fault of the last attempt, is raised unchanged. *pauses* are those
    between attempts, as long as the run is not cancelled; default: those of a busy VM, in any case.
    """
    for pause in session.retry_policy.busy if pauses is None else pauses:
        try:
            return wait_task(session, session.repeat(start, what), what)
        except vmodl.MethodFault as fault:
            if not is_transient(fault):
                raise
            wait_before_retry(session, fault, what, pause)
            if pauses is not None and session.is_stopping:
                raise Stopped(f"{what}: interrupted") from fault
        except TaskGone as exc:
            log.info("%s: %s; starting it again", what, exc)
    return wait_task(session, session.repeat(start, what), what)


def finish_task(session: Session, start: Callable[[], Any], what: str) -> None:
    """Run the task that *start* starts; raise the error for its fault."""
    try:
        run_task(session, start, what)
    except vmodl.MethodFault as fault:
        raise error_of(fault, what) from fault
    except TaskGone as exc:
        raise SourceUnavailable(f"{what}: {exc}") from exc
