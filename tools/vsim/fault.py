"""vSphere faults by name: the model raises them, the SOAP layer serialises them."""

from typing import NamedTuple


class MoRef(NamedTuple):
    """Managed object reference: a vSphere type, such as vim.VirtualMachine, and an id."""

    kind: str
    moid: str


class Fault(Exception):
    """A vim or vmodl fault.

    *name* is the full type name, such as vim.fault.FileFault. *fields* are its properties; a
    property that refers to a managed object is a MoRef.
    """

    def __init__(self, name: str, message: str, /, **fields: object) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def invalid_argument(parameter: str) -> Fault:
    """Return the fault for a parameter that is out of range."""
    return Fault(
        "vmodl.fault.InvalidArgument",
        f"A specified parameter was not correct: {parameter}",
        invalidProperty=parameter,
    )


def invalid_power_state(existing: str, requested: str) -> Fault:
    """Return the fault for an operation that the power state does not allow."""
    return Fault(
        "vim.fault.InvalidPowerState",
        f"The attempted operation cannot be performed in the current state ({existing}).",
        existingState=existing,
        requestedState=requested,
    )


def not_found(moid: str, kind: str) -> Fault:
    """Return the fault for an object that does not exist."""
    return Fault(
        "vmodl.fault.ManagedObjectNotFound",
        f"The object '{kind}:{moid}' has already been deleted or has not been completely created",
        obj=MoRef(kind, moid),
    )


def not_authenticated(target: MoRef) -> Fault:
    """Return the fault for a call without a session."""
    return Fault(
        "vim.fault.NotAuthenticated",
        "The session is not authenticated.",
        object=target,
        privilegeId="System.View",
    )


def no_permission(target: MoRef, privilege: str | None) -> Fault:
    """Return the fault for a call without the privilege."""
    return Fault(
        "vim.fault.NoPermission",
        "Permission to perform this operation was denied.",
        object=target,
        privilegeId=privilege,
    )
