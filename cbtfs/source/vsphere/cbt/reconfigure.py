"""Reconfigure a VM, unless its configuration changed after it was checked."""

import logging
from collections.abc import Callable
from typing import Any

from pyVmomi import vmodl

from cbtfs.errors import CbtfsError
from cbtfs.source.vsphere.connect.faults import error_of
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task_retry import run_task
from cbtfs.source.vsphere.inventory.machine import Machine, load_machine
from cbtfs.source.vsphere.inventory.vms import ListedVm

log = logging.getLogger(__name__)


def reconfigure(
    session: Session, vm: ListedVm, what: str, spec: Any, check: Callable[[Machine], None]
) -> Machine:
    """Run ReconfigVM_Task with *spec*, and return the VM afterwards.

    *check* raises an error if the VM must not be reconfigured now. Each attempt loads the VM's
    state and calls *check* first. If the configuration changes after that, the server refuses the
    task with ConcurrentAccess (vSphere API reference, VirtualMachineConfigSpec.changeVersion).

    Raises:
        SourceUnavailable, AccessDenied: the task failed; or an error of *check*.
    """

    def start() -> object:
        machine = load_machine(session, vm)
        check(machine)
        spec.changeVersion = machine.config.changeVersion or None
        return vm.object.ReconfigVM_Task(spec)

    try:
        run_task(session, start, what)
    except vmodl.MethodFault as fault:
        raise error_of(fault, what) from fault
    try:
        return load_machine(session, vm)
    except CbtfsError:
        log.warning("%s: %s: done, but the VM's state cannot be read", vm.path, what)
        raise
