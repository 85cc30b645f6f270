"""Reconfigure a machine only as long as its configuration is the one that was examined."""

import logging
from collections.abc import Callable
from typing import Any

from pyVmomi import vmodl

from cbtfs.errors import CbtfsError
from cbtfs.source.vsphere.connect.faults import meaning
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task_retry import carry_out
from cbtfs.source.vsphere.inventory.machine import Machine, load_machine
from cbtfs.source.vsphere.inventory.vms import ListedVm

log = logging.getLogger(__name__)


def reconfigure(
    session: Session, vm: ListedVm, what: str, spec: Any, check: Callable[[Machine], None]
) -> Machine:
    """Carry out ReconfigVM_Task with *spec*, and return the machine afterwards.

    *check* raises if the machine must not be reconfigured now. It examines a fresh state before
    each try, and the server refuses the task (ConcurrentAccess) if the configuration changed since
    (vSphere API reference, VirtualMachineConfigSpec.changeVersion). Errors: those of *check*,
    SourceUnavailable, AccessDenied.
    """

    def start() -> object:
        machine = load_machine(session, vm)
        check(machine)
        spec.changeVersion = machine.config.changeVersion or None
        return vm.object.ReconfigVM_Task(spec)

    try:
        carry_out(session, start, what)
    except vmodl.MethodFault as fault:
        raise meaning(fault, what) from fault
    try:
        return load_machine(session, vm)
    except CbtfsError:
        log.warning("%s: %s: done; its state cannot be read", vm.path, what)
        raise
