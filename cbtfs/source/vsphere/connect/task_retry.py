"""Tasks that may be carried out twice, tried again while another operation stands in their way."""

import logging
import time
from collections.abc import Callable
from typing import Any

from pyVmomi import vim, vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.faults import meaning, text_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task import TaskGone, wait_task

log = logging.getLogger(__name__)

_PASSING = (
    vim.fault.TaskInProgress,
    vim.fault.ConcurrentAccess,
    vim.fault.FileLocked,
    vim.fault.MethodDisabled,
    vim.fault.InvalidState,
    vmodl.fault.HostCommunication,
)
_LASTING = (vim.fault.InvalidPowerState, vim.fault.QuestionPending)


def may_pass(fault: Any) -> bool:
    """Whether the same call can succeed later without anybody doing anything."""
    return isinstance(fault, _PASSING) and not isinstance(fault, _LASTING)


def let_pass(session: Session, fault: Any, what: str, pause: float) -> None:
    """Wait for the task that *fault* names, or for a while where it names none."""
    log.info("%s: %s; trying again", what, text_of(fault))
    other = getattr(fault, "task", None)
    if other is not None:
        try:
            wait_task(session, other, "wait for the other operation")
        except (vmodl.MethodFault, TaskGone) as ended:
            log.debug("the other operation ended: %s", type(ended).__name__)
        else:
            return
    time.sleep(pause)


def carry_out(session: Session, start: Callable[[], Any], what: str) -> Any:
    """The result of the task that *start* begins, which may be begun twice.

    The fault that ends it for good comes out as it is.
    """
    for pause in session.retry_policy.busy:
        try:
            return wait_task(session, session.repeat(start, what), what)
        except vmodl.MethodFault as fault:
            if not may_pass(fault):
                raise
            let_pass(session, fault, what, pause)
        except TaskGone as exc:
            log.info("%s: %s; beginning it again", what, exc)
    return wait_task(session, session.repeat(start, what), what)


def done(session: Session, start: Callable[[], Any], what: str) -> None:
    """Carry out what *start* begins; faults become errors."""
    try:
        carry_out(session, start, what)
    except vmodl.MethodFault as fault:
        raise meaning(fault, what) from fault
    except TaskGone as exc:
        raise SourceUnavailable(f"{what}: {exc}") from exc
