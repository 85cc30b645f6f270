"""What a vSphere fault means for the user: pyVmomi's exceptions end here."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, Final
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from cbtfs.errors import AccessDenied, CbtfsError, SourceUnavailable

TROUBLE: Final = (OSError, HTTPException, ExpatError)
"""What pyVmomi raises when no proper answer came."""

_ADVICE: Final = (
    (vim.fault.TooManySnapshotLevels, "remove snapshots of the VM"),
    (vim.fault.MultipleSnapshotsNotSupported, "remove the VM's snapshot"),
    (vim.fault.SnapshotDisabled, "the VM's settings forbid snapshots"),
    (vim.fault.SnapshotLocked, "wait until nothing holds the snapshot"),
    (vim.fault.NoDiskSpace, "make room on the datastore"),
    (vim.fault.FileLocked, "wait until nothing else holds the disk"),
    (vim.fault.QuestionPending, "answer the VM's question"),
    (vim.fault.TaskInProgress, "wait for the other operation on the VM"),
    (vim.fault.RestrictedVersion, "the licence of the host does not allow it"),
    (vim.fault.MethodDisabled, "another product has disabled it on this VM: wait for its end"),
)


class ReplyLost(CbtfsError):
    """A request went out and no answer came back: whether it was carried out is not known."""


class ObjectGone(SourceUnavailable):
    """The server does not know an object any more."""


def name_of(fault: Any) -> str:
    """The fault's type, as VMware's documentation has it."""
    return type(fault).__name__.rpartition(".")[2]


def text_of(fault: Any) -> str:
    """Its type and what the server says of it."""
    message = " ".join(str(getattr(fault, "msg", None) or "").split())
    return f"{name_of(fault)} ({message})" if message else name_of(fault)


def meaning(fault: Any, what: str) -> CbtfsError:
    """The error for *fault*, met while *what* was done."""
    if isinstance(fault, vim.fault.InvalidLogin):
        return AccessDenied(
            "the server does not accept user and password: correct them (it is not tried again, "
            "as accounts get locked)"
        )
    if isinstance(fault, vim.fault.NotAuthenticated):
        return SourceUnavailable(f"{what}: the session ended again and again")
    if isinstance(fault, vim.fault.NoPermission):
        where = getattr(fault.object, "_moId", None) or "this object"
        return AccessDenied(
            f"{what}: the user lacks the privilege {fault.privilegeId} on {where}: "
            "add it to the user's role"
        )
    if isinstance(fault, vim.fault.SnapshotIncompatibleDeviceInVm):
        inner = f": {text_of(fault.fault)}" if fault.fault is not None else ""
        return SourceUnavailable(
            f"{what}: a device stands against snapshots{inner}: physical RDMs, multi-writer disks "
            "and shared buses must leave the VM, or be made independent disks"
        )
    if isinstance(fault, vmodl.fault.ManagedObjectNotFound):
        return ObjectGone(f"{what}: {text_of(fault)}: it was removed meanwhile")
    for kind, advice in _ADVICE:
        if isinstance(fault, kind):
            return SourceUnavailable(f"{what}: {text_of(fault)}: {advice}")
    return SourceUnavailable(f"{what}: {text_of(fault)}")


def raise_ended(missing: Iterable[Any]) -> None:
    """Raise the NotAuthenticated fault that an answer holds for a property, if it holds one.

    vCenter reports a session that ended in either of two forms: the call fails, or it succeeds and
    each property is in the missingSet of its object (vSphere API reference, MissingProperty).
    """
    for each in missing:
        if isinstance(each.fault, vim.fault.NotAuthenticated):
            raise each.fault


@contextmanager
def speaking(what: str) -> Iterator[None]:
    """Let no fault of pyVmomi out."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise meaning(fault, what) from fault
