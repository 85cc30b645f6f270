"""Backups by several clients at once while guests write."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.tools.vsim.clients import (
    BLOCK,
    DISK,
    MIB,
    changed,
    connected,
    disk_of,
    inventory,
    machine,
    remove,
    take_snapshot,
)
from tests.tools.vsim.nbd_client import NbdClient
from tools.vsim import DiskEntry, MachineEntry, Simulator

MACHINES = 3
ROUNDS = 4


def back_up(sim: Simulator, name: str) -> None:
    """Take a full and incremental backups of one copy; compare each with the reference image."""
    copy, base = bytearray(2 * MIB), "*"
    with connected(sim) as service:
        vm = machine(service, name)
        for number in range(ROUNDS):
            label = f"{name}-{number}"
            snapshot = take_snapshot(vm, label)
            export = f"{vm._moId}/{snapshot._moId}/{DISK}"
            with NbdClient(sim.nbd_uri, export) as source:
                for start, length in changed(vm, snapshot, base):
                    copy[start : start + length] = source.read(start, length)
            assert copy == Path(sim.do.truth(label, DISK)["path"]).read_bytes()
            base = disk_of(snapshot.config).backing.changeId
            remove(snapshot)


def test_parallel_backups_of_writing_guests_are_exact() -> None:
    disks = (DiskEntry(size=2 * MIB),)
    machines = [MachineEntry(f"vm{n}", cbt=True, disks=disks) for n in range(MACHINES)]
    done = threading.Event()

    def write_on(sim: Simulator) -> None:
        number = 0
        while not done.is_set():
            number += 1
            data = number.to_bytes(4) * 2000
            sim.do.write(f"vm{number % MACHINES}", DISK, number * 37 * 512 % (MIB + BLOCK), data)

    with Simulator(inventory(*machines)) as sim, ThreadPoolExecutor(MACHINES + 1) as pool:
        guest = pool.submit(write_on, sim)
        try:
            backups = [pool.submit(back_up, sim, entry.name) for entry in machines]
            for backup in backups:
                backup.result(timeout=60)
        finally:
            done.set()
        guest.result(timeout=60)
