"""VirtualMachine: properties and methods."""

from collections.abc import Callable
from typing import Any

from tools.vsim.api.base import ManagedObject, MethodCall, Properties, Site, escaped_name
from tools.vsim.api.capability import render_capability, render_guest, render_runtime
from tools.vsim.api.reconfigure import check_spec, reconfigure
from tools.vsim.api.render import render_config, vmx_path
from tools.vsim.api.snapshot import SnapshotObject, render_tree
from tools.vsim.fault import Fault, MoRef, invalid_argument, not_found
from tools.vsim.model.changes import Page
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.query import query_changes
from tools.vsim.model.snapshot import SnapshotRequest
from tools.vsim.soap.vmodl import long, managed_object, typed, vim


class VirtualMachine(ManagedObject):
    kind = vim.VirtualMachine

    def __init__(self, site: Site, machine: SimulatedMachine) -> None:
        super().__init__(site, machine.moid)
        self.machine = machine

    @property
    def name(self) -> str:
        return self.machine.spec.name

    def properties(self) -> Properties:
        machine = self.machine
        world = self.site.world
        return {
            "name": lambda: escaped_name(machine.spec.name),
            "parent": lambda: self.site.parent_of(self.ref),
            "config": lambda: render_config(world, machine),
            "capability": lambda: render_capability(machine),
            "runtime": self._runtime,
            "guest": lambda: render_guest(machine),
            "summary": self._summary,
            "layoutEx": self._layout,
            "datastore": self._datastores,
            "network": list,
            "snapshot": lambda: render_tree(self.site, machine),
            "rootSnapshot": lambda: [
                SnapshotObject(self.site, machine, child).object
                for child in machine.snapshots.children(None)
            ],
            "resourcePool": lambda: self.site.pool_of(self.ref),
            "recentTask": lambda: self.site.tasks.references(machine),
            "disabledMethod": lambda: ["RelocateVM_Task"] * bool(machine.relocation_disabled_by),
            "overallStatus": lambda: "green",
            "configStatus": lambda: "green",
            "guestHeartbeatStatus": lambda: "green",
            "effectiveRole": lambda: [-1],
            "alarmActionsEnabled": lambda: True,
        }

    # power

    def PowerOnVM_Task(self, call: MethodCall, host: Any) -> Any:
        return self._task(call, self.machine.power_on)

    def PowerOffVM_Task(self, call: MethodCall) -> Any:
        return self._task(call, self.machine.power_off)

    def SuspendVM_Task(self, call: MethodCall) -> Any:
        return self._task(call, self.machine.suspend)

    def ShutdownGuest(self, call: MethodCall) -> None:
        self.site.leases.require_none(self.machine)
        with self.site.world.changing():
            self.machine.power_off(hard=False)

    # configuration

    def ReconfigVM_Task(self, call: MethodCall, spec: Any) -> Any:
        check_spec(spec, lambda privilege: call.caller.require(privilege, self.ref))
        return self._task(call, lambda: reconfigure(self.site.world, self.machine, spec))

    def UpgradeVM_Task(self, call: MethodCall, version: str | None) -> Any:
        hardware = None
        if version:
            if not version.removeprefix("vmx-").isdecimal():
                raise invalid_argument("version")
            hardware = int(version.removeprefix("vmx-"))
        return self._task(call, lambda: self.machine.upgrade(hardware))

    def RelocateVM_Task(self, call: MethodCall, spec: Any, priority: Any) -> Any:
        """Relocate the machine; a disk with a locator of its own goes to that datastore."""
        home = None
        if spec.datastore is not None:
            home = self._datastore_named(spec.datastore, "spec.datastore")
        keys = {disk.spec.key for disk in self.machine.disks}
        moved = dict.fromkeys(keys, home) if home is not None else {}
        for locator in spec.disk:
            if locator.diskId not in keys:
                raise invalid_argument("spec.disk.diskId")
            moved[locator.diskId] = self._datastore_named(locator.datastore, "spec.disk.datastore")
        if not moved:
            raise invalid_argument("spec.datastore")
        return self._task(call, lambda: self.site.world.relocate(self.machine, home, moved))

    def _datastore_named(self, reference: Any, parameter: str) -> str:
        for store in self.site.world.datastores.values():
            if store.moid == reference._moId:
                return store.name
        raise invalid_argument(parameter)

    # snapshots

    def CreateSnapshot_Task(
        self, call: MethodCall, name: str, description: str | None, memory: bool, quiesce: bool
    ) -> Any:
        return self._snapshot(call, SnapshotRequest(name, description or "", memory, quiesce))

    def CreateSnapshotEx_Task(
        self, call: MethodCall, name: str, description: str | None, memory: bool, quiesceSpec: Any
    ) -> Any:
        minutes = quiesceSpec.timeout if quiesceSpec else None
        if minutes is not None and not 5 <= minutes <= 240:
            raise invalid_argument("quiesceSpec.timeout")
        request = SnapshotRequest(name, description or "", memory, quiesceSpec is not None)
        return self._snapshot(call, request)

    def RemoveAllSnapshots_Task(self, call: MethodCall, consolidate: bool | None, spec: Any) -> Any:
        def work() -> None:
            self.machine.remove_snapshots(
                list(self.machine.snapshots), consolidate=consolidate is not False
            )

        return self._task(call, work)

    def RevertToCurrentSnapshot_Task(
        self, call: MethodCall, host: Any, suppressPowerOn: bool | None
    ) -> Any:
        current = self.machine.snapshots.current
        if current is None:
            raise Fault("vim.fault.NotFound", "The virtual machine has no snapshot.")
        return SnapshotObject(self.site, self.machine, current).RevertToSnapshot_Task(
            call, host, suppressPowerOn
        )

    def ExportVm(self, call: MethodCall) -> Any:
        return self.site.leases.export_machine(call, self.machine)

    def ConsolidateVMDisks_Task(self, call: MethodCall) -> Any:
        return self._task(call, self.machine.consolidate)

    def QueryChangedDiskAreas(
        self, call: MethodCall, snapshot: Any, deviceKey: int, startOffset: int, changeId: str
    ) -> Any:
        held = None
        if snapshot is not None:
            target = self.site.find(snapshot._moId, call.session)
            if target is None:
                raise not_found(snapshot._moId, "vim.vm.Snapshot")
            if not isinstance(target, SnapshotObject) or target.machine is not self.machine:
                raise invalid_argument("snapshot")
            held = target.snapshot
        return _render_page(query_changes(self.machine, held, deviceKey, startOffset, changeId))

    def _snapshot(self, call: MethodCall, request: SnapshotRequest) -> Any:
        def work() -> MoRef:
            snapshot = self.site.world.take_snapshot(self.machine, request)
            return MoRef("vim.vm.Snapshot", snapshot.moid)

        return self._task(call, work)

    def _task(self, call: MethodCall, work: Callable[[], MoRef | None]) -> Any:
        return self.site.tasks.start(call, self.machine, work)

    # properties

    def _runtime(self) -> Any:
        connection = self.site.world.host_of(self.machine.moid).connection
        return render_runtime(self.machine, self.site.host_of(self.ref), connection)

    def _datastores(self) -> list[Any]:
        names = {self.machine.datastore, *(disk.datastore for disk in self.machine.disks)}
        stores = self.site.world.datastores
        return [managed_object(MoRef("vim.Datastore", stores[name].moid)) for name in sorted(names)]

    def _summary(self) -> Any:
        spec = self.machine.spec
        return vim.vm.Summary(
            vm=self.object,
            runtime=self._runtime(),
            config=vim.vm.Summary.ConfigSummary(
                name=spec.name,
                template=spec.template,
                vmPathName=vmx_path(self.machine),
                memorySizeMB=spec.memory_mib,
                numCpu=spec.cpus,
                numVirtualDisks=len(self.machine.disks),
                uuid=spec.bios_uuid,
                instanceUuid=spec.instance_uuid,
                guestId=spec.guest_id,
                annotation=spec.annotation,
            ),
            quickStats=vim.vm.Summary.QuickStats(
                guestHeartbeatStatus=typed(vim.ManagedEntity.Status, "green")
            ),
            overallStatus=typed(vim.ManagedEntity.Status, "green"),
        )

    def _layout(self) -> Any:
        files = self.site.files.of_machine(self.machine)
        return vim.vm.FileLayoutEx(
            timestamp=self.site.world.now(),
            file=[
                vim.vm.FileLayoutEx.FileInfo(
                    key=number, name=file.path, type=file.kind, size=long(file.size)
                )
                for number, file in enumerate(files)
            ],
        )


def _render_page(page: Page) -> Any:
    info = vim.VirtualMachine.DiskChangeInfo
    return info(
        startOffset=long(page.start),
        length=long(page.length),
        changedArea=[
            info.DiskChangeExtent(start=long(span.start), length=long(span.length))
            for span in page.extents
        ],
    )
