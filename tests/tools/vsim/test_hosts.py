"""States of hosts and datastores; privileges in AuthorizationManager."""

from pathlib import Path

import pytest

from tests.tools.vsim.clients import connected, inventory, machine
from tools.vsim import DatastoreEntry, HostEntry, Inventory, Simulator, UserEntry
from tools.vsim.inventory import InventoryError
from tools.vsim.knobs import Knobs
from tools.vsim.model.world import World

READER = UserEntry("reader", "vsim", ("System.*", "Datastore.*"), ("Datastore.FileManagement",))


def test_a_host_has_the_state_of_inventory_and_operations() -> None:
    hosts = (HostEntry("127.0.0.1", port=8443),)
    with Simulator(inventory(hosts=hosts)) as sim, connected(sim) as service:
        vm = machine(service)
        host = vm.runtime.host
        assert (host.name, host.summary.config.port) == ("127.0.0.1", 8443)
        assert (vm.runtime.connectionState, host.runtime.inMaintenanceMode) == ("connected", False)
        sim.do.host("127.0.0.1", connection="notResponding", maintenance=True)

        assert vm.runtime.connectionState == "disconnected"
        assert host.runtime.connectionState == "notResponding"
        assert host.runtime.inMaintenanceMode


def test_a_datastore_reports_its_free_space() -> None:
    stores = (DatastoreEntry(capacity=100 << 30, free=7 << 30),)
    with Simulator(inventory(datastores=stores)) as sim, connected(sim) as service:
        (store,) = machine(service).datastore
        assert (store.summary.freeSpace, store.summary.accessible) == (7 << 30, True)
        sim.do.datastore("datastore1", free="1G", accessible=False)

        assert (store.summary.freeSpace, store.summary.accessible) == (1 << 30, False)


def test_the_authorization_manager_reports_the_privileges_of_users() -> None:
    users = (UserEntry(), READER)
    asked = ["System.Read", "Datastore.Browse", "Datastore.FileManagement", "Global.Licenses"]
    with Simulator(inventory(users=users)) as sim, connected(sim, READER) as service:
        content = service.content
        key = content.sessionManager.currentSession.key
        entities = [content.rootFolder, machine(service)]
        answers = content.authorizationManager.HasPrivilegeOnEntities(entities, key, asked)

    assert [answer.entity for answer in answers] == entities
    for answer in answers:
        granted = {
            availability.privId: availability.isGranted for availability in answer.privAvailability
        }
        assert granted == dict(zip(asked, (True, True, False, False), strict=True))


def test_a_host_of_an_unknown_datacenter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="unknown datacenter 'DC7'"):
        World(Inventory(hosts=(HostEntry("esx", "DC7"),)), Knobs(), tmp_path)


def test_an_unknown_state_is_refused() -> None:
    with Simulator(inventory()) as sim:
        with pytest.raises(ValueError, match="invalid connection state"):
            sim.do.host("esx1", connection="gone")
        with pytest.raises(LookupError, match="no host"):
            sim.do.host("esx9", maintenance=True)
