"""Restarts of the server: lost state, kept state, the view of clients."""

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
    """Return the HTTP status of a request for the versions document."""
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
    answer = status(sim)
    sim.do.advance(60)
    sim.do.wait_restart()

    assert answer == 503
    assert status(sim) == 200


def test_sessions_are_lost_and_machines_stay(sim: Simulator) -> None:
    with connected(sim) as service:
        take_snapshot(machine(service), "kept")
        sim.do.restart()
        sim.do.wait_restart()
        with pytest.raises(AWAY):
            service.CurrentTime()  # over the old connection
        with pytest.raises(vim.fault.NotAuthenticated):
            service.CurrentTime()
    with connected(sim) as service:
        names = [root.name for root in machine(service).snapshot.rootSnapshotList]

    assert names == ["kept"]


def test_a_task_record_is_lost_and_its_work_is_done(sim: Simulator) -> None:
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
    assert [document["name"] for document in sim.do.vms()[0]["snapshots"]] == ["late"]


def test_a_call_during_the_restart_is_carried_out_and_its_reply_lost(sim: Simulator) -> None:
    with connected(sim) as service:
        vm = machine(service)
        sim.do.on_call("CreateSnapshot_Task", action="operation", operation="restart")
        with pytest.raises(AWAY):
            vm.CreateSnapshot_Task("made", "", False, False)
        sim.do.wait_restart()
        with sim.world.changed:
            assert sim.world.changed.wait_for(lambda: sim.do.vms()[0]["snapshots"], 30)


def test_nbd_clients_are_not_affected(sim: Simulator) -> None:
    sim.do.write("web1", DISK, 0, b"guest")
    snapshot = sim.do.snapshot("web1", "mine")
    with NbdClient(sim.nbd_uri, f"{sim.do.vms()[0]['id']}/{snapshot}/{DISK}") as client:
        sim.do.restart(3600)

        assert client.read(0, 5) == b"guest"
        sim.do.advance(3600)
        sim.do.wait_restart()


def test_the_client_that_requests_a_restart_gets_an_answer(sim: Simulator) -> None:
    remote = Remote(sim.url, str(sim.certificate.certificate), sim.token)
    remote.restart(seconds=3600)
    with pytest.raises(AWAY):
        status(sim)
    sim.do.advance(3600)
    sim.do.wait_restart()

    assert remote.vms()


def test_a_simulator_can_close_while_it_is_away(certificate: Certificate) -> None:
    with Simulator(inventory(), certificate=certificate) as sim:
        sim.do.restart(3600)
    with pytest.raises(AWAY):
        status(sim)
