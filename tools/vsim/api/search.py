"""SearchIndex: lookup of machines and other entities by UUID, path or name."""

from typing import Any

from tools.vsim.api.base import ManagedObject, MethodCall, escaped_name
from tools.vsim.api.render import vmx_path
from tools.vsim.api.virtualmachine import VirtualMachine
from tools.vsim.soap.vmodl import vim


class SearchIndex(ManagedObject):
    kind = vim.SearchIndex

    def FindByUuid(
        self,
        call: MethodCall,
        datacenter: Any,
        uuid: str,
        vmSearch: bool,
        instanceUuid: bool | None,
    ) -> Any:
        matches = self.FindAllByUuid(call, datacenter, uuid, vmSearch, instanceUuid)
        return matches[0] if matches else None

    def FindAllByUuid(
        self,
        call: MethodCall,
        datacenter: Any,
        uuid: str,
        vmSearch: bool,
        instanceUuid: bool | None,
    ) -> list[Any]:
        if not vmSearch:
            return []
        return [
            vm.object
            for vm in self._machines(datacenter)
            if uuid.lower()
            == (
                vm.machine.spec.instance_uuid if instanceUuid else vm.machine.spec.bios_uuid
            ).lower()
        ]

    def FindByInventoryPath(self, call: MethodCall, inventoryPath: str) -> Any:
        entity: ManagedObject = self.site.root
        for name in inventoryPath.strip("/").split("/"):
            if not name:
                continue
            children = [child for child in entity.children() if escaped_name(child.name) == name]
            if not children:
                return None
            entity = children[0]
        return entity.object

    def FindChild(self, call: MethodCall, entity: Any, name: str) -> Any:
        parent = self.site.require(entity._moId, call.session)
        return next((child.object for child in parent.children() if child.name == name), None)

    def FindByDatastorePath(self, call: MethodCall, datacenter: Any, path: str) -> Any:
        return next(
            (vm.object for vm in self._machines(datacenter) if vmx_path(vm.machine) == path),
            None,
        )

    def FindByDnsName(self, call: MethodCall, datacenter: Any, dnsName: str, vmSearch: bool) -> Any:
        return None

    def _machines(self, datacenter: Any) -> list[VirtualMachine]:
        top: ManagedObject = self.site.root
        if datacenter is not None:
            top = self.site.require(datacenter._moId, None)
        return [entity for entity in descendants(top) if isinstance(entity, VirtualMachine)]


def descendants(top: ManagedObject) -> list[ManagedObject]:
    """Return all entities below *top*, parents before their children."""
    entities: list[ManagedObject] = []
    for child in top.children():
        entities.append(child)
        entities += descendants(child)
    return entities
