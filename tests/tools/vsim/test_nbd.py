"""NBD: the exact bytes of a snapshot, allocation, injected faults."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from tests.tools.vsim.clients import (
    DISK,
    MIB,
    connected,
    finished,
    inventory,
    machine,
    take_snapshot,
)
from tests.tools.vsim.nbd_client import NbdClient, NbdError
from tools.vsim import DiskEntry, Listen, MachineEntry, ReadRule, Simulator

HOLE_AND_ZERO = 3


@pytest.fixture
def export(sim: Simulator, vm: Any) -> str:
    """Return an export with data at 1 MiB and holes elsewhere; the guest wrote more afterwards."""
    sim.do.write("web1", DISK, MIB, b"frozen" * 1000)
    snapshot = take_snapshot(vm, "s")
    sim.do.write("web1", DISK, MIB, b"moving" * 2000)
    return f"{vm._moId}/{snapshot._moId}/{DISK}"


@pytest.fixture
def client(sim: Simulator, export: str) -> Iterator[NbdClient]:
    with NbdClient(sim.nbd_uri, export) as connection:
        yield connection


def test_the_export_is_the_snapshot(sim: Simulator, client: NbdClient) -> None:
    whole = client.read(0, client.size)

    assert client.size == 4 * MIB
    assert whole == Path(sim.do.truth("s", DISK)["path"]).read_bytes()
    assert whole[MIB : MIB + 6] == b"frozen"


def test_a_client_without_structured_replies_gets_the_same_bytes(
    sim: Simulator, export: str
) -> None:
    with NbdClient(sim.nbd_uri, export, structured=False) as simple:
        assert simple.read(MIB - 10, 20) == bytes(10) + b"frozenfroz"


def test_allocation_distinguishes_holes_and_data(client: NbdClient) -> None:
    assert client.status(0, 4 * MIB) == [(MIB, 3), (8192, 0), (3 * MIB - 8192, HOLE_AND_ZERO)]
    assert client.status(MIB + 4096, 8192) == [(4096, 0), (4096, HOLE_AND_ZERO)]


def test_a_hole_can_lack_the_zero_flag(sim: Simulator, client: NbdClient) -> None:
    sim.knobs.change("data", holes="hole")

    assert client.status(0, MIB) == [(MIB, 1)]


def test_allocation_may_not_be_offered(sim: Simulator, export: str) -> None:
    sim.knobs.change("data", holes="none")
    with NbdClient(sim.nbd_uri, export) as connection:
        assert connection.context is None
        with pytest.raises(NbdError):
            connection.status(0, MIB)


def test_the_export_is_read_only(client: NbdClient) -> None:
    assert client.flags & 2
    with pytest.raises(NbdError) as refused:
        client.write(0, b"data")
    assert refused.value.number == errno.EPERM
    assert client.read(0, 4) == bytes(4)


@pytest.mark.parametrize(("offset", "length"), [(4 * MIB, 1), (4 * MIB - 1, 2), (0, 64 * MIB)])
def test_reads_outside_of_the_disk_are_invalid(client: NbdClient, offset: int, length: int) -> None:
    with pytest.raises(NbdError) as refused:
        client.read(offset, length)
    assert refused.value.number == errno.EINVAL
    assert client.read(4 * MIB - 1, 1) == b"\0"


def test_alignment_can_be_required(sim: Simulator, export: str) -> None:
    sim.knobs.change("data", min_block=512)
    with NbdClient(sim.nbd_uri, export) as connection:
        assert connection.block_sizes[0] == 512
        assert connection.read(MIB, 512)[:6] == b"frozen"
        with pytest.raises(NbdError):
            connection.read(MIB, 100)


@pytest.mark.parametrize("name", ["", "vm-101", "vm-101/snapshot-9/2000", "vm-101/snapshot-1/9"])
def test_unknown_exports_are_refused(sim: Simulator, export: str, name: str) -> None:
    with pytest.raises(NbdError) as refused:
        NbdClient(sim.nbd_uri, name)
    assert refused.value.number == 6


def test_a_range_can_be_unreadable(sim: Simulator, client: NbdClient) -> None:
    sim.knobs.rules.add(ReadRule("eio", start=MIB, end=MIB + 512))

    with pytest.raises(NbdError) as refused:
        client.read(MIB - 4096, 8192)
    assert refused.value.number == errno.EIO
    assert client.read(MIB + 512, 6) == (b"frozen" * 1000)[512:518]


def test_the_nth_read_can_fail_once(sim: Simulator, client: NbdClient) -> None:
    sim.knobs.rules.add(ReadRule("eio", at=2, times=1))
    client.read(0, 1)
    with pytest.raises(NbdError):
        client.read(0, 1)

    assert client.read(0, 1) == b"\0"


@pytest.mark.parametrize("structured", [True, False])
def test_the_connection_can_close_in_the_middle_of_a_read(
    sim: Simulator, export: str, structured: bool
) -> None:
    sim.knobs.rules.add(ReadRule("close", export=export, times=1))
    with (
        NbdClient(sim.nbd_uri, export, structured=structured) as connection,
        pytest.raises(ConnectionError),
    ):
        connection.read(0, MIB)
    with NbdClient(sim.nbd_uri, export, structured=structured) as connection:
        assert connection.read(MIB, 6) == b"frozen"


def test_a_rule_can_run_an_operation_before_a_read(
    sim: Simulator, vm: Any, client: NbdClient
) -> None:
    sim.do.on_read(action="operation", operation="power", arguments={"vm": "web1", "state": "off"})

    assert client.read(MIB, 6) == b"frozen"
    assert vm.runtime.powerState == "poweredOff"


def test_the_size_can_be_wrong(sim: Simulator, export: str) -> None:
    sim.knobs.change("data", size_delta=-512)
    with NbdClient(sim.nbd_uri, export) as connection:
        assert connection.size == 4 * MIB - 512


def test_readers_can_be_limited(sim: Simulator, client: NbdClient, export: str) -> None:
    sim.knobs.change("data", max_readers=1)
    with pytest.raises(NbdError):
        NbdClient(sim.nbd_uri, export)
    sim.knobs.change("data", max_readers=2)

    with NbdClient(sim.nbd_uri, export) as second:
        assert second.read(0, 1) == client.read(0, 1)


def test_each_host_has_its_own_limit_of_readers() -> None:
    disks = (DiskEntry(size=MIB),)
    machines = MachineEntry("one", disks=disks), MachineEntry("two", datacenter="DC1", disks=disks)
    with Simulator(inventory(*machines, datacenters=("DC0", "DC1"))) as sim:
        sim.knobs.change("data", max_readers=1)
        ids = [document["id"] for document in sim.do.vms()]
        exports = [
            f"{moid}/{sim.do.snapshot(name, name)}/{DISK}"
            for moid, name in zip(ids, ("one", "two"), strict=True)
        ]
        with NbdClient(sim.nbd_uri, exports[0]) as first:
            with NbdClient(sim.nbd_uri, exports[1]) as second:
                assert first.read(0, 1) == second.read(0, 1)
            with pytest.raises(NbdError):
                NbdClient(sim.nbd_uri, exports[0])


def test_an_open_reader_can_prevent_consolidation(
    sim: Simulator, vm: Any, client: NbdClient
) -> None:
    sim.knobs.change("snapshot", locked_by_readers=True)
    finished(vm.RemoveAllSnapshots_Task())

    assert vm.runtime.consolidationNeeded is True
    with pytest.raises(vim.fault.FileLocked):
        finished(vm.ConsolidateVMDisks_Task())


def test_nbd_can_be_served_on_a_unix_socket(tmp_path: Path) -> None:
    listen = Listen(nbd=tmp_path / "nbd")
    with Simulator(inventory(), listen=listen) as sim, connected(sim) as service:
        vm = machine(service)
        sim.do.write("web1", DISK, 0, b"here")
        snapshot = take_snapshot(vm)
        with NbdClient(sim.nbd_uri, f"{vm._moId}/{snapshot._moId}/{DISK}") as connection:
            assert connection.read(0, 4) == b"here"
    assert not (tmp_path / "nbd").exists()
