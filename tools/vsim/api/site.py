"""All managed objects of the simulator by id, and the inventory tree."""

from typing import Any, TypeVar

from tools.vsim.api.authorization import AuthorizationManager
from tools.vsim.api.base import ClientSession, ManagedObject
from tools.vsim.api.collector import PropertyCollector
from tools.vsim.api.entities import (
    ComputeResource,
    Datacenter,
    DatastoreObject,
    Entity,
    Folder,
    HostSystem,
    ResourcePool,
)
from tools.vsim.api.event_log import EventLog
from tools.vsim.api.events import EventManager
from tools.vsim.api.leases import LeaseRegistry
from tools.vsim.api.nfc import NfcService, NfcTickets
from tools.vsim.api.search import SearchIndex
from tools.vsim.api.service import FileManager, ServiceInstance, render_about
from tools.vsim.api.sessions import SessionManager, Sessions
from tools.vsim.api.snapshot import SnapshotObject
from tools.vsim.api.tasks import TaskManager, Tasks
from tools.vsim.api.views import ViewManager
from tools.vsim.api.virtualmachine import VirtualMachine
from tools.vsim.data.files import DatastoreContents
from tools.vsim.fault import MoRef, not_found
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.world import Host, World

Kept = TypeVar("Kept", bound=ManagedObject)


class SimulatedSite:
    """The site that clients see: implements `base.Site`. The world's lock covers the methods."""

    def __init__(self, world: World, api_version: str) -> None:
        self.world = world
        self.closing = False
        self.files = DatastoreContents(world)
        self.sessions = Sessions(world)
        self.tasks = Tasks(self)
        self.leases = LeaseRegistry(self)
        self.nfc = NfcTickets(self)
        self.scheme, self.host, self.port = "https", "127.0.0.1", 443  # of the HTTPS server
        self.thumbprint = ""  # SHA-1 of the certificate
        self.events = EventLog(world)
        uuid = f"{world.random.getrandbits(128):032x}"
        uuid = "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
        self.about = render_about(api_version, world.is_vcenter, uuid)
        self.fixed: dict[str, ManagedObject] = {}
        self.managers: dict[str, ManagedObject] = {
            "propertyCollector": _UnownedCollector(self, "propertyCollector"),
            "viewManager": ViewManager(self, "ViewManager"),
            "sessionManager": SessionManager(self, "SessionManager"),
            "authorizationManager": AuthorizationManager(self, "AuthorizationManager"),
            "eventManager": EventManager(self, "EventManager"),
            "taskManager": TaskManager(self, "TaskManager"),
            "searchIndex": SearchIndex(self, "SearchIndex"),
            "fileManager": FileManager(self, "FileManager"),
        }
        service = NfcService(self, "nfcService" if world.is_vcenter else "ha-nfc-service")
        entry = ServiceInstance(self, "ServiceInstance", service)
        for manager in (entry, service, *self.managers.values()):
            self.fixed[manager.moid] = manager
        self._parents: dict[str, Entity] = {}
        self._hosts: dict[str, HostSystem] = {}  # by name
        self._pools: dict[str, ResourcePool] = {}
        self.root = self._keep(
            Folder(self, "group-d1" if world.is_vcenter else "ha-folder-root", "Datacenters", None)
        )
        self._datacenters = {
            name: self._add_datacenter(name, number)
            for number, name in enumerate(world.datacenters, 1)
        }
        for store in world.datastores.values():
            folder = self._datacenters[store.datacenter].folder(2)
            folder.members.append(self._keep(DatastoreObject(self, store, folder)))
        for machine in world.machines.values():
            self.add_machine(machine)

    # lookup

    def find(self, moid: str, session: ClientSession | None) -> ManagedObject | None:
        """Return the object with that id, as *session* sees it."""
        if session and moid in session.objects:
            return session.objects[moid]
        if moid in self.fixed:
            return self.fixed[moid]
        task = self.tasks.find(moid)
        if task:
            return task
        pair = self.world.snapshot(moid)
        return SnapshotObject(self, *pair) if pair else None

    def require(self, moid: str, session: ClientSession | None) -> ManagedObject:
        """Return the object like `find`; raises ManagedObjectNotFound."""
        target = self.find(moid, session)
        if target is None:
            raise not_found(moid, "vim.ManagedEntity")
        return target

    def furnish(self, session: ClientSession) -> None:
        """Create the objects that every session owns."""
        PropertyCollector(self, "propertyCollector", session)
        session.objects["SessionManager"] = SessionManager(self, "SessionManager", session)

    # tree

    def add_machine(self, machine: SimulatedMachine) -> None:
        """Show a machine of the world in its folder."""
        datacenter, path = self.world.folders[machine.moid]
        folder = self._datacenters[datacenter].folder(0)
        for name in path.split("/") if path else ():
            folder = self._folder_below(folder, name)
        vm = VirtualMachine(self, machine)
        self.fixed[vm.moid] = vm
        self._parents[vm.moid] = folder
        folder.members.append(vm)

    def remove_machine(self, machine: SimulatedMachine) -> None:
        """Remove a machine from the inventory, as unregistering does."""
        vm = self.fixed.pop(machine.moid)
        self._parents.pop(machine.moid).members.remove(vm)
        del self.world.machines[machine.moid], self.world.folders[machine.moid]

    def parent_of(self, ref: MoRef) -> Any:
        """Return a reference to the folder of a machine."""
        return self._parents[ref.moid].object

    def host_of(self, ref: MoRef) -> Any:
        """Return a reference to the host of a machine."""
        return self._hosts[self.world.host_of(ref.moid).name].object

    def pool_of(self, ref: MoRef) -> Any:
        """Return a reference to the resource pool of a machine."""
        return self._pools[self.world.host_of(ref.moid).name].object

    def machines_on(self, host: ManagedObject) -> list[Any]:
        """Return references to the machines of a host."""
        return [
            self.fixed[moid].object
            for moid in self.world.folders
            if self._hosts[self.world.host_of(moid).name] is host
        ]

    def machines_of(self, datastore: str) -> list[Any]:
        """Return references to the machines with files on a datastore."""
        return [
            self.fixed[machine.moid].object
            for machine in self.world.machines.values()
            if datastore in {machine.datastore, *(disk.datastore for disk in machine.disks)}
        ]

    def _keep(self, entity: Kept) -> Kept:
        self.fixed[entity.moid] = entity
        return entity

    def _folder_below(self, parent: Folder, name: str, prefix: str = "group-v") -> Folder:
        for member in parent.members:
            if isinstance(member, Folder) and member.name == name:
                return member
        folder = self._keep(Folder(self, f"{prefix}{len(self.fixed) + 1000}", name, parent))
        parent.members.append(folder)
        return folder

    def _add_datacenter(self, name: str, number: int) -> Datacenter:
        moid = f"datacenter-{number}" if self.world.is_vcenter else "ha-datacenter"
        above = self.root
        path = self.world.datacenter_folders.get(name, "")
        for part in path.split("/") if path else ():
            above = self._folder_below(above, part, "group-d")
        datacenter = self._keep(Datacenter(self, moid, name, above))
        above.members.append(datacenter)
        for letter, label in (("v", "vm"), ("h", "host"), ("s", "datastore"), ("n", "network")):
            folder = Folder(self, f"group-{letter}{number}", label, datacenter)
            datacenter.members.append(self._keep(folder))
        for index, host in enumerate(self.world.hosts_of(name)):
            self._add_host(
                host, datacenter.folder(1), number if not index else 1000 * number + index
            )
        return datacenter

    def _add_host(self, host: Host, folder: Folder, number: int) -> None:
        resource = self._keep(ComputeResource(self, f"domain-s{number}", host.name, folder))
        folder.members.append(resource)
        system = self._keep(HostSystem(self, f"host-{number}", host, resource))
        pool = self._keep(ResourcePool(self, f"resgroup-{number}", "Resources", resource))
        resource.members += [system, pool]
        self._hosts[host.name], self._pools[host.name] = system, pool


class _UnownedCollector(ManagedObject):
    """The object with the id of the property collector outside of sessions."""

    kind = PropertyCollector.kind
