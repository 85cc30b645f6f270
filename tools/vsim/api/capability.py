"""Capabilities, runtime state and guest information of a virtual machine."""

from typing import Any

from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.soap.vmodl import typed, vim


def render_capability(machine: SimulatedMachine) -> Any:
    """Return the VirtualMachineCapability of a machine."""
    return vim.vm.Capability(
        snapshotOperationsSupported=True,
        multipleSnapshotsSupported=True,
        snapshotConfigSupported=True,
        poweredOffSnapshotsSupported=True,
        memorySnapshotsSupported=True,
        revertToSnapshotSupported=True,
        quiescedSnapshotsSupported=True,
        changeTrackingSupported=machine.spec.can_track,
    )


def render_runtime(machine: SimulatedMachine, host: Any, connection: str) -> Any:
    """Return the VirtualMachineRuntimeInfo; *connection* is the host's connection state."""
    states = vim.VirtualMachine
    runtime = vim.vm.RuntimeInfo(
        connectionState=typed(
            states.ConnectionState, "connected" if connection == "connected" else "disconnected"
        ),
        powerState=typed(states.PowerState, machine.power),
        faultToleranceState=states.FaultToleranceState.notConfigured,
        recordReplayState=states.RecordReplayState.inactive,
        host=host,
        consolidationNeeded=machine.consolidation_needed,
    )
    if machine.question:
        runtime.question = vim.vm.QuestionInfo(
            id="1",
            text=machine.question,
            choice=vim.option.ChoiceOption(
                choiceInfo=[vim.ElementDescription(key="0", label="OK", summary="OK")],
                defaultIndex=0,
            ),
        )
    return runtime


def render_guest(machine: SimulatedMachine) -> Any:
    """Return the GuestInfo of a machine."""
    running = machine.is_on and machine.tools_running
    known = machine.power != "poweredOff" and machine.tools_running
    return vim.vm.GuestInfo(
        guestState="running" if running else "notRunning",
        toolsStatus=typed(
            vim.vm.GuestInfo.ToolsStatus, "toolsOk" if running else "toolsNotRunning"
        ),
        toolsRunningStatus="guestToolsRunning" if running else "guestToolsNotRunning",
        guestId=machine.spec.guest_id,
        hostName=f"{machine.spec.name}.example" if known else None,
        ipAddress="192.0.2.10" if known else None,
        guestFullName="Ubuntu Linux (64-bit)" if known else None,
        guestFamily="linuxGuest" if known else None,
        toolsVersion="12389" if known else None,
        toolsVersionStatus2="guestToolsUnmanaged" if known else None,
    )
