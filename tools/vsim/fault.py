"""Faults by their vSphere names: the model raises them, the SOAP side turns them into XML."""

from typing import NamedTuple


class Ref(NamedTuple):
    """A managed object reference: its vSphere type, such as vim.VirtualMachine, and its id."""

    kind: str
    moid: str


class Fault(Exception):
    """A vim or vmodl fault. *fields* are its properties; a Ref stands for a managed object.

    *name* is the full name of the fault's type, such as vim.fault.FileFault.
    """

    def __init__(self, name: str, message: str, /, **fields: object) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def invalid_argument(parameter: str) -> Fault:
    """What a host says of a parameter out of range."""
    return Fault(
        "vmodl.fault.InvalidArgument",
        f"A specified parameter was not correct: {parameter}",
        invalidProperty=parameter,
    )


def invalid_power_state(existing: str, requested: str) -> Fault:
    """The operation is not allowed while the machine is in its power state."""
    return Fault(
        "vim.fault.InvalidPowerState",
        f"The attempted operation cannot be performed in the current state ({existing}).",
        existingState=existing,
        requestedState=requested,
    )


def not_found(moid: str, kind: str) -> Fault:
    """The object was deleted or never was."""
    return Fault(
        "vmodl.fault.ManagedObjectNotFound",
        f"The object '{kind}:{moid}' has already been deleted or has not been completely created",
        obj=Ref(kind, moid),
    )


def not_authenticated(target: Ref) -> Fault:
    """The session of a call does not exist, or has ended."""
    return Fault(
        "vim.fault.NotAuthenticated",
        "The session is not authenticated.",
        object=target,
        privilegeId="System.View",
    )
