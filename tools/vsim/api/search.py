"""SearchIndex: machines and other entities by UUID, path, name."""

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
        found = self.FindAllByUuid(call, datacenter, uuid, vmSearch, instanceUuid)
        return found[0] if found else None

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
            each.object
            for each in self._machines(datacenter)
            if uuid.lower()
            == (
                each.machine.spec.instance_uuid if instanceUuid else each.machine.spec.bios_uuid
            ).lower()
        ]

    def FindByInventoryPath(self, call: MethodCall, inventoryPath: str) -> Any:
        place: ManagedObject = self.site.root
        for name in inventoryPath.strip("/").split("/"):
            if not name:
                continue
            below = [each for each in place.children() if escaped_name(each.name) == name]
            if not below:
                return None
            place = below[0]
        return place.object

    def FindChild(self, call: MethodCall, entity: Any, name: str) -> Any:
        place = self.site.require(entity._moId, call.session)
        return next((each.object for each in place.children() if each.name == name), None)

    def FindByDatastorePath(self, call: MethodCall, datacenter: Any, path: str) -> Any:
        return next(
            (each.object for each in self._machines(datacenter) if vmx_path(each.machine) == path),
            None,
        )

    def FindByDnsName(self, call: MethodCall, datacenter: Any, dnsName: str, vmSearch: bool) -> Any:
        return None

    def _machines(self, datacenter: Any) -> list[VirtualMachine]:
        place: ManagedObject = self.site.root
        if datacenter is not None:
            place = self.site.require(datacenter._moId, None)
        return [each for each in descendants(place) if isinstance(each, VirtualMachine)]


def descendants(place: ManagedObject) -> list[ManagedObject]:
    """All entities below, parents before their children."""
    found: list[ManagedObject] = []
    for each in place.children():
        found.append(each)
        found += descendants(each)
    return found
