"""Translate vSphere faults, the exceptions of pyVmomi, into errors for the user."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, Final
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from cbtfs.errors import AccessDenied, CbtfsError, SourceUnavailable

NO_ANSWER: Final = (OSError, HTTPException, ExpatError)
"""Exceptions that pyVmomi raises when there is no valid answer."""

_ADVICE: Final = (
    (vim.fault.TooManySnapshotLevels, "remove snapshots of the VM"),
    (vim.fault.MultipleSnapshotsNotSupported, "remove the VM's snapshot"),
    (vim.fault.SnapshotDisabled, "the VM's settings forbid snapshots"),
    (vim.fault.SnapshotLocked, "wait until the snapshot is no longer in use"),
    (vim.fault.NoDiskSpace, "free space on the datastore"),
    (vim.fault.FileLocked, "wait until the disk is no longer locked"),
    (vim.fault.QuestionPending, "answer the VM's question"),
    (vim.fault.TaskInProgress, "wait for the other operation on the VM"),
    (vim.fault.RestrictedVersion, "the license of the host does not allow it"),
    (vim.fault.MethodDisabled, "another product has disabled it on this VM: wait for that product"),
)


class ReplyLost(CbtfsError):
    """Raised when a request was sent and got no answer: it may have been carried out."""


class ObjectGone(SourceUnavailable):
    """Raised when the server no longer knows an object."""


def name_of(fault: Any) -> str:
    """Return the type of the fault as VMware documents it."""
    return type(fault).__name__.rpartition(".")[2]


def text_of(fault: Any) -> str:
    """Return the type and the message of the fault."""
    message = " ".join(str(getattr(fault, "msg", None) or "").split())
    return f"{name_of(fault)} ({message})" if message else name_of(fault)


def error_of(fault: Any, what: str) -> CbtfsError:
    """Return the error for a *fault* of the operation *what*."""
    if isinstance(fault, vim.fault.InvalidLogin):
        return AccessDenied(
            "the server rejects the user or password: correct them (cbtfs does not retry, because "
            "that can lock the account)"
        )
    if isinstance(fault, vim.fault.NotAuthenticated):
        return SourceUnavailable(f"{what}: the session ended repeatedly")
    if isinstance(fault, vim.fault.NoPermission):
        where = getattr(fault.object, "_moId", None) or "this object"
        return AccessDenied(
            f"{what}: the user lacks the privilege {fault.privilegeId} on {where}: "
            "add it to the user's role"
        )
    if isinstance(fault, vim.fault.SnapshotIncompatibleDeviceInVm):
        inner = f": {text_of(fault.fault)}" if fault.fault is not None else ""
        return SourceUnavailable(
            f"{what}: a device of the VM does not support snapshots{inner}: remove physical RDMs, "
            "multi-writer disks and shared buses from the VM, or make the disks independent"
        )
    if isinstance(fault, vmodl.fault.ManagedObjectNotFound):
        return ObjectGone(f"{what}: {text_of(fault)}: it was removed in the meantime")
    for kind, advice in _ADVICE:
        if isinstance(fault, kind):
            return SourceUnavailable(f"{what}: {text_of(fault)}: {advice}")
    return SourceUnavailable(f"{what}: {text_of(fault)}")


def raise_ended(missing: Iterable[Any]) -> None:
    """Raise the NotAuthenticated fault among *missing* properties, if there is one.

    vCenter reports the end of a session in two ways: the call fails, or it succeeds and each
    property is in the missingSet of its object (vSphere API reference, MissingProperty).
    """
    for entry in missing:
        if isinstance(entry.fault, vim.fault.NotAuthenticated):
            raise entry.fault


@contextmanager
def translated_faults(what: str) -> Iterator[None]:
    """Raise the error for a fault of the operation *what*."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise error_of(fault, what) from fault
