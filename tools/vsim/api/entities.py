"""Managed entities of the inventory tree: folders, datacenters, datastores, hosts, pools."""

from typing import Any

from tools.vsim.api.base import ManagedObject, Properties, Site, escaped_name
from tools.vsim.model.world import Datastore, Host
from tools.vsim.soap.vmodl import long, typed, vim


class Entity(ManagedObject):
    """A managed entity with a name, a parent and children."""

    def __init__(self, site: Site, moid: str, name: str, parent: ManagedObject | None) -> None:
        super().__init__(site, moid)
        self._name = name
        self.parent = parent
        self.members: list[ManagedObject] = []

    @property
    def name(self) -> str:
        return self._name

    def children(self) -> list[ManagedObject]:
        return self.members

    def properties(self) -> Properties:
        return {
            "name": lambda: escaped_name(self._name),
            "parent": self._parent,
            "overallStatus": lambda: "green",
            "configStatus": lambda: "green",
            "effectiveRole": lambda: [-1],
            "recentTask": list,
            **self.own_properties(),
        }

    def _parent(self) -> Any:
        if self.kind is vim.Folder and self.site.world.knobs.answer.parent_cycle:
            return self.object
        return self.parent.object if self.parent else None

    def own_properties(self) -> Properties:
        return {}

    def of_kind(self, kind: Any) -> list[Any]:
        return [member.object for member in self.members if member.kind is kind]


class Folder(Entity):
    kind = vim.Folder

    def own_properties(self) -> Properties:
        return {
            "childEntity": lambda: [member.object for member in self.members],
            "childType": list,
        }


class Datacenter(Entity):
    """A datacenter. Its members are the folders of machines, hosts, datastores and networks."""

    kind = vim.Datacenter

    def folder(self, number: int) -> Folder:
        member = self.members[number]
        assert isinstance(member, Folder)
        return member

    def own_properties(self) -> Properties:
        return {
            "vmFolder": lambda: self.folder(0).object,
            "hostFolder": lambda: self.folder(1).object,
            "datastoreFolder": lambda: self.folder(2).object,
            "networkFolder": lambda: self.folder(3).object,
            "datastore": lambda: [store.object for store in self.folder(2).members],
            "network": list,
        }


class ComputeResource(Entity):
    """A compute resource. Its members are one host and one resource pool."""

    kind = vim.ComputeResource

    def own_properties(self) -> Properties:
        return {
            "host": lambda: self.of_kind(vim.HostSystem),
            "resourcePool": lambda: self.of_kind(vim.ResourcePool)[0],
            "datastore": list,
            "network": list,
        }


class ResourcePool(Entity):
    kind = vim.ResourcePool

    def own_properties(self) -> Properties:
        return {"owner": lambda: self.parent.object if self.parent else None}


class HostSystem(Entity):
    kind = vim.HostSystem

    def __init__(self, site: Site, moid: str, host: Host, parent: ManagedObject) -> None:
        super().__init__(site, moid, host.name, parent)
        self.host = host

    def own_properties(self) -> Properties:
        host = self.host
        return {
            "summary": lambda: vim.host.Summary(
                host=self.object,
                config=vim.host.Summary.ConfigSummary(
                    name=self._name,
                    port=host.port,
                    product=self.site.about,
                    vmotionEnabled=True,
                ),
                quickStats=vim.host.Summary.QuickStats(),
                overallStatus=typed(vim.ManagedEntity.Status, "green"),
                rebootRequired=False,
            ),
            "runtime": lambda: vim.host.RuntimeInfo(
                connectionState=typed(vim.HostSystem.ConnectionState, host.connection),
                powerState=vim.HostSystem.PowerState.poweredOn,
                inMaintenanceMode=host.maintenance,
            ),
            "datastore": list,
            "network": list,
            "vm": lambda: self.site.machines_on(self),
        }


class DatastoreObject(Entity):
    kind = vim.Datastore

    def __init__(self, site: Site, store: Datastore, parent: ManagedObject) -> None:
        super().__init__(site, store.moid, store.name, parent)
        self.store = store

    def own_properties(self) -> Properties:
        store = self.store
        url = f"ds:///vmfs/volumes/{store.name}/"
        return {
            "summary": lambda: vim.Datastore.Summary(
                datastore=self.object,
                name=store.name,
                url=url,
                capacity=long(store.capacity),
                freeSpace=long(store.free),
                accessible=store.accessible,
                multipleHostAccess=True,
                type=store.type,
                maintenanceMode="normal",
            ),
            "info": lambda: vim.Datastore.Info(
                name=store.name,
                url=url,
                freeSpace=long(store.free),
                maxFileSize=long(1 << 46),
                maxMemoryFileSize=long(1 << 46),
            ),
            "host": list,
            "vm": lambda: self.site.machines_of(store.name),
        }
