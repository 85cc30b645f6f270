"""VirtualMachineSnapshot, and the snapshot tree of a machine."""

from typing import Any

from tools.vsim.api.base import ManagedObject, MethodCall, Properties, Site
from tools.vsim.api.render import render_snapshot_config
from tools.vsim.fault import MoRef
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.soap.vmodl import managed_object, typed, vim


class SnapshotObject(ManagedObject):
    kind = vim.vm.Snapshot

    def __init__(self, site: Site, machine: SimulatedMachine, snapshot: Snapshot) -> None:
        super().__init__(site, snapshot.moid)
        self.machine = machine
        self.snapshot = snapshot

    @property
    def name(self) -> str:
        return self.machine.spec.name  # rules match the name of the machine

    def properties(self) -> Properties:
        return {
            "config": lambda: render_snapshot_config(self.site.world, self.machine, self.snapshot),
            "childSnapshot": lambda: [
                SnapshotObject(self.site, self.machine, child).object
                for child in self.machine.snapshots.children(self.snapshot)
            ],
            "vm": lambda: managed_object(MoRef("vim.VirtualMachine", self.machine.moid)),
        }

    def RemoveSnapshot_Task(
        self, call: MethodCall, removeChildren: bool, consolidate: bool | None
    ) -> Any:
        def work() -> None:
            if self.snapshot in self.machine.snapshots:
                below = self.machine.snapshots.below(self.snapshot)
                doomed = below if removeChildren else [self.snapshot]
                self.machine.remove_snapshots(doomed, consolidate=consolidate is not False)

        return self.site.tasks.start(call, self.machine, work)

    def RevertToSnapshot_Task(
        self, call: MethodCall, host: Any, suppressPowerOn: bool | None
    ) -> Any:
        def work() -> None:
            self.machine.revert(self.snapshot)
            self.site.events.add_revert(self.machine, self.snapshot, call.caller.user.name)

        return self.site.tasks.start(call, self.machine, work)

    def ExportSnapshot(self, call: MethodCall) -> Any:
        return self.site.leases.export_snapshot(call, self.machine, self.snapshot)

    def RenameSnapshot(self, call: MethodCall, name: str | None, description: str | None) -> None:
        with self.site.world.changing():
            self.snapshot.name = name or self.snapshot.name
            if description is not None:
                self.snapshot.description = description


def render_tree(site: Site, machine: SimulatedMachine) -> Any:
    """Return the VirtualMachineSnapshotInfo; None without snapshots."""
    if not len(machine.snapshots):
        return None

    def branch(parent: Snapshot | None) -> list[Any]:
        return [
            vim.vm.SnapshotTree(
                snapshot=SnapshotObject(site, machine, snapshot).object,
                vm=managed_object(MoRef("vim.VirtualMachine", machine.moid)),
                name=snapshot.name,
                description=snapshot.description,
                id=snapshot.number,
                createTime=snapshot.created,
                state=typed(vim.VirtualMachine.PowerState, snapshot.power),
                quiesced=snapshot.quiesced,
                childSnapshotList=branch(snapshot),
            )
            for snapshot in machine.snapshots.children(parent)
        ]

    info = vim.vm.SnapshotInfo(rootSnapshotList=branch(None))
    if machine.snapshots.current:
        info.currentSnapshot = SnapshotObject(site, machine, machine.snapshots.current).object
    return info
