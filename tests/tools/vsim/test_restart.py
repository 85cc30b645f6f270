"""A restart of the server: what is gone, what stays, what clients see meanwhile."""

import http.client
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.tools.vsim.clients import DISK, connected, inventory, machine, take_snapshot
from tests.tools.vsim.nbd_client import NbdClient
from tools.vsim import Simulator
from tools.vsim.server.https import Stream
from tools.vsim.soap.certificate import Certificate, make_certificate
from tools.vsimctl import Remote

AWAY = (OSError, http.client.HTTPException)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def sim(certificate: Certificate) -> Iterator[Simulator]:
    with Simulator(inventory(), certificate=certificate) as made:
        yield made


def status(sim: Simulator) -> int:
    """What the server answers to who asks for its versions."""
    context = sim.certificate.client_context()
    context.sslsocket_class = Stream
    connection = http.client.HTTPSConnection(sim.host, sim.port, timeout=20, context=context)
    try:
        connection.request("GET", "/sdk/vimServiceVersions.xml")
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_server_is_away_then_starting_then_back(sim: Simulator) -> None:
    sim.do.restart(3600, starting=60)
    with pytest.raises(AWAY):
        status(sim)
    sim.do.advance(3600)
    with sim.world.changed:
        assert sim.world.changed.wait_for(lambda: not sim._https.is_away, 30)
    found = status(sim)
    sim.do.advance(60)
    sim.do.wait_restart()

    assert found == 503
    assert status(sim) == 200


def test_sessions_are_gone_and_machines_stay(sim: Simulator) -> None:
    with connected(sim) as service:
        take_snapshot(machine(service), "kept")
        sim.do.restart()
        sim.do.wait_restart()
        with pytest.raises(AWAY):
            service.CurrentTime()  # over the old connection
        with pytest.raises(vim.fault.NotAuthenticated):
            service.CurrentTime()
    with connected(sim) as service:
        names = [each.name for each in machine(service).snapshot.rootSnapshotList]

    assert names == ["kept"]


def test_a_task_is_forgotten_and_its_work_is_done(sim: Simulator) -> None:
    with connected(sim) as service:
        sim.do.on_call("CreateSnapshot_Task", action="hold-task")
        task = machine(service).CreateSnapshot_Task("late", "", False, False)
        sim.do.restart()
        sim.do.wait_restart()
    with connected(sim) as service:
        vm: Any = machine(service)
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            vim.Task(task._moId, service._stub).CancelTask()
        second = vm.CreateSnapshot_Task("other", "", False, False)
        busy = second.info.error
        sim.do.release_tasks()
        with sim.world.changed:
            assert sim.world.changed.wait_for(lambda: sim.do.vms()[0]["snapshots"], 30)

    assert isinstance(busy, vim.fault.TaskInProgress)
    assert [each["name"] for each in sim.do.vms()[0]["snapshots"]] == ["late"]


def test_a_call_at_that_moment_is_carried_out_and_its_reply_lost(sim: Simulator) -> None:
    with connected(sim) as service:
        vm = machine(service)
        sim.do.on_call("CreateSnapshot_Task", action="operation", operation="restart")
        with pytest.raises(AWAY):
            vm.CreateSnapshot_Task("made", "", False, False)
        sim.do.wait_restart()
        with sim.world.changed:
            assert sim.world.changed.wait_for(lambda: sim.do.vms()[0]["snapshots"], 30)


def test_nbd_clients_do_not_notice(sim: Simulator) -> None:
    sim.do.write("web1", DISK, 0, b"guest")
    snapshot = sim.do.snapshot("web1", "mine")
    with NbdClient(sim.nbd_uri, f"{sim.do.vms()[0]['id']}/{snapshot}/{DISK}") as client:
        sim.do.restart(3600)

        assert client.read(0, 5) == b"guest"
        sim.do.advance(3600)
        sim.do.wait_restart()


def test_who_asks_for_a_restart_gets_an_answer(sim: Simulator) -> None:
    remote = Remote(sim.url, str(sim.certificate.certificate), sim.token)
    remote.restart(seconds=3600)
    with pytest.raises(AWAY):
        status(sim)
    sim.do.advance(3600)
    sim.do.wait_restart()

    assert remote.vms()


def test_a_simulator_that_is_away_can_be_closed(certificate: Certificate) -> None:
    with Simulator(inventory(), certificate=certificate) as sim:
        sim.do.restart(3600)
    with pytest.raises(AWAY):
        status(sim)
