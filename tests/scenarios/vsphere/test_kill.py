"""SIGKILL at any moment of a run: the next run removes the snapshot and takes a point."""

import random
import signal
from pathlib import Path

import pytest

from tests.scenarios.vsphere.command import KILLS, start
from tests.scenarios.vsphere.site import MIB, VM, Lab, new_lab, one_vm
from tests.scenarios.vsphere.vddk import by_vddk, libdir
from tools.vsim import DiskEntry, Simulator
from tools.vsim.soap.certificate import Certificate

CALLS = 26
"""Approximate number of calls of a run; a kill after the last call finds a finished run."""


def kill_after(lab: Lab, calls: int, *more: str) -> None:
    """Start a run and kill it once the server has received that number of calls."""
    lab.sim.do.calls(clear=True)
    with start(lab, *more, VM) as process:
        with lab.sim.world.changed:
            while len(lab.sim.dispatcher.calls) < calls and process.poll() is None:
                lab.sim.world.changed.wait(0.1)  # nobody notifies of the end of the process
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_kills_at_random_moments(tmp_path: Path, certificate: Certificate) -> None:
    moments = random.Random(4)
    with Simulator(one_vm(DiskEntry(size=4 * MIB)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path)
        lab.ingest()
        for number in range(KILLS):
            sim.do.write(VM, 2000, number % 12 * 300_000, bytes([number % 255 + 1]) * 200_000)
            kill_after(lab, moments.randrange(3, CALLS))
            assert len(lab.snapshots()) <= 1
            sim.do.write(VM, 2000, number % 12 * 300_000, bytes([number % 255 + 1]) * 1000)
            lab.ingest()
            lab.assert_clean()

        lab.assert_all_true()
        assert {manifest.kind for manifest in lab.points[1:]} == {"incremental"}


def test_kills_at_random_moments_with_vmwares_library(
    tmp_path: Path, certificate: Certificate
) -> None:
    """Every other time, the child processes of the run are killed too."""
    with Simulator(one_vm(DiskEntry(size=4 * MIB)), certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_vddk)
        lab.ingest()
        more = ("--transport", "vddk", "--vddk-libdir", str(libdir(sim)))
        moments = random.Random(5)
        for number in range(KILLS):
            sim.do.write(VM, 2000, number % 12 * 300_000, bytes([number % 255 + 1]) * 200_000)
            if number % 2:
                sim.do.on_vddk("VixDiskLib_EndAccess", code=36)  # simulates that it died as well
            kill_after(lab, moments.randrange(9, CALLS), *more)
            sim.do.reset_knobs()
            sim.knobs.change("snapshot", keep_truth=True)
            lab.ingest()
            lab.assert_clean()
            assert sim.do.vms()[0]["relocation_disabled_by"] == []

        lab.assert_all_true()


@pytest.mark.parametrize("form", ["queued", "made"])
def test_a_snapshot_that_is_still_being_made_by_a_dead_run_is_swept(
    tracked: Lab, form: str
) -> None:
    if form == "queued":
        tracked.sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    tracked.sim.do.calls(clear=True)
    with start(tracked) as process:
        tracked.sim.do.wait_call("WaitForUpdatesEx" if form == "queued" else "QueryEvents")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(tracked.run_records()) == 1
    tracked.sim.do.release_tasks()
    tracked.ingest()

    tracked.assert_all_true()
    tracked.assert_clean()


def test_only_snapshots_of_dead_runs_of_this_repository_are_swept(tracked: Lab) -> None:
    mine = f"cbtfs-{'0' * 8}-{'1' * 32}"
    tracked.sim.do.snapshot(VM, mine)
    outcome = tracked.ingest_with_nbd()

    assert tracked.snapshots() == [mine]
    assert f"another snapshot is kept: {mine}" in outcome.notes
    tracked.assert_all_true()
