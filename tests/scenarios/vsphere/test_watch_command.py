"""`cbtfs watch` as a process: JSON lines, captures beside the watching, signals."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.docs.documents import MemberTables
from tests.make_points import SIGNALS
from tests.scenarios.vsphere.command import ROOT, environment
from tests.scenarios.vsphere.server import at
from tests.scenarios.vsphere.site import VM, Lab
from tests.scenarios.vsphere.test_watch import UPDATES


class Command:
    """The command, and the documents that it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.documents: list[dict[str, Any]] = []

    def wait(self, kind: str) -> Mapping[str, Any]:
        """Return the next document of a kind."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.documents.append(json.loads(line))
            if self.documents[-1]["event"] == kind:
                return self.documents[-1]
        raise AssertionError(f"no {kind}: {self.documents}")

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        out, _ = self.process.communicate(timeout=60)
        self.documents += map(json.loads, out.splitlines())
        return self.process.returncode


@contextmanager
def started(
    lab: Lab, *more: str, vm: str = VM, count: int = 1, seconds: float = 100
) -> Iterator[Command]:
    """Run the command until the block ends; *count* VMs have the name *vm*."""
    words = ["--repo", str(lab.repository), "watch", *at(lab.sim), "--json", *more, vm]
    with subprocess.Popen(
        [*SIGNALS, sys.executable, "-m", "cbtfs", *words],
        cwd=ROOT,
        env=environment(lab.sim),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        command = Command(process)
        timer = threading.Timer(seconds, process.kill)  # ends a wait for a line that never comes
        timer.start()
        try:
            assert command.wait("connected")["vms"] == count
            yield command
        finally:
            timer.cancel()
            process.kill()


def test_points_are_taken_after_changes_and_documents_have_the_described_members(
    lab: Lab,
) -> None:
    do, tables = lab.sim.do, MemberTables()
    with started(lab, "--capture", "--min-interval", "0", "--transport", "datastore") as command:
        do.power(VM, "off")
        captured = command.wait("capture")
        assert captured["exit"] == 0
        assert captured["reasons"] == ["power"]
        assert [point["id"] for point in points(lab)] == [captured["point"]]

        snapshot = do.snapshot(VM, "of another product\n\u202e")
        failed = command.wait("capture")
        assert failed["exit"] == 30
        assert "another snapshot" in failed["error"]
        do.remove_snapshot(snapshot)
        do.relocate(VM, "datastore1")
        do.add_disk(VM, {"size": "1M"})
        assert command.wait("capture")["reasons"] == ["disk"]
        do.set_cbt(VM, False)
        command.wait("tracking")
        do.rename(VM, "web2")
        command.wait("reconfiguration")
        do.remove_vm("web2")
        command.wait("left")
        assert command.end(signal.SIGTERM) == 143
    for document in command.documents:
        tables.compare("watch", document)
    kinds = {document["event"] for document in command.documents}

    assert tables.problems == []
    assert {"power", "snapshot", "disk", "tracking", "left"} <= kinds
    snapshots = [entry for entry in command.documents if entry["event"] == "snapshot"]
    assert [entry["action"] for entry in snapshots] == ["taken", "removed"]
    assert lab.run_records() == []


def resident(command: Command) -> int:
    """Return the resident memory of the process in bytes."""
    status = Path(f"/proc/{command.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_the_memory_of_the_command_does_not_grow_with_the_updates(lab: Lab) -> None:
    """CBTFS_WATCH_UPDATES=10000 follows 1,000 VMs."""
    count, rounds, sizes = UPDATES // 10, 20, []
    for number in range(count):
        lab.sim.do.add_vm({"name": f"many{number}", "disk": [{"size": "1M"}]})
    with started(lab, vm="many*", count=count, seconds=100 + UPDATES) as command:
        for number in range(rounds):
            half = range(number % 2, count, 2)
            with lab.sim.world.changing():
                for index in half:
                    is_on = number // 2 % 2 == 0
                    lab.sim.do.power(f"many{index}", "off" if is_on else "on")
            for _ in half:
                command.wait("power")
            command.documents.clear()
            sizes.append(resident(command))

    print(f"{count} VMs, {rounds * count // 2} updates: {sizes[3]} to {sizes[-1]} bytes")
    assert sizes[-1] - sizes[3] < 4 << 20


def points(lab: Lab) -> list[dict[str, Any]]:
    listed = subprocess.run(
        [sys.executable, "-m", "cbtfs", "--repo", str(lab.repository), "list", "--json"],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    found: list[dict[str, Any]] = json.loads(listed.stdout)["points"]
    return found


def test_a_signal_ends_a_capture_in_progress_cleanly(lab: Lab) -> None:
    lab.sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    with started(lab, "--capture") as command:
        lab.sim.do.power(VM, "off")
        lab.sim.do.wait_call("CreateSnapshot_Task")
        lab.sim.do.power(VM, "on")
        # Updates are read while the capture waits for its task.
        assert command.wait("power")["state"] == "poweredOff"
        assert command.wait("power")["state"] == "poweredOn"
        assert command.end(signal.SIGTERM) == 143

    lab.assert_clean()


def test_a_locked_repository_costs_the_capture_and_not_the_watch(lab: Lab) -> None:
    with lab.context(), started(lab, "--capture", "--lock-wait", "0") as command:
        lab.sim.do.power(VM, "off")
        assert command.wait("capture")["exit"] == 11
        lab.sim.do.power(VM, "on")
        assert command.wait("power")["state"] == "poweredOn"
        assert command.end(signal.SIGINT) == 130
