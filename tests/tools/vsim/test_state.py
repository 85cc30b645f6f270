"""A state directory in several runs."""

from pathlib import Path

from tests.tools.vsim.clients import DISK, connected, disk_of, inventory, machine, take_snapshot
from tools.vsim import DiskEntry, MachineEntry, Simulator


def test_bytes_and_names_survive_a_run_and_change_ids_do_not(tmp_path: Path) -> None:
    entry = MachineEntry("web1", cbt=True, disks=(DiskEntry(size=1 << 20),))
    states = []
    for number in range(2):
        with Simulator(inventory(entry), tmp_path) as sim, connected(sim) as service:
            held = sim.do.read("web1", DISK, 0, 4)
            sim.do.write("web1", DISK, 0, b"last")
            vm = machine(service)
            snapshot = take_snapshot(vm, f"s{number}")
            backing = disk_of(snapshot.config).backing
            states.append((held, sim.certificate.thumbprint, backing, snapshot._moId))
    first, second = states

    assert (first[0], second[0]) == (bytes(4), b"last")
    assert first[1] == second[1]
    assert first[2].uuid == second[2].uuid
    assert first[2].changeId != second[2].changeId
    assert first[3] != second[3]
