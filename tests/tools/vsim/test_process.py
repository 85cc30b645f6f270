"""`python -m tools.vsim` in its own process, and its control channel."""

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect

from tests.tools.vsim.clients import BLOCK, DISK, change_id, changed, machine, remove, take_snapshot
from tools.vsimctl import ControlError, Remote

ROOT = Path(__file__).parents[3]
INVENTORY = """
[server]
api = "7.0.3.0"

[[user]]
name = "backup"
password = "secret"

[[vm]]
name = "web1"
cbt = true
folder = "prod"
  [[vm.disk]]
  file = "root.raw"
  [[vm.disk]]
  size = "2M"
  label = "data"
  slot = "sata0:4"
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Yield the document that the simulator prints when it is ready."""
    (tmp_path / "inventory.toml").write_text(INVENTORY)
    with (tmp_path / "root.raw").open("wb") as file:
        file.truncate(1 << 20)
    command = [sys.executable, "-m", "tools.vsim", "--inventory", str(tmp_path / "inventory.toml")]
    command += ["--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0


@pytest.fixture
def remote(started: dict[str, Any]) -> Remote:
    return Remote(started["url"], started["certificate"], started["token"])


def test_a_backup_works_from_another_process(started: dict[str, Any], remote: Remote) -> None:
    service = SmartConnect(
        host=started["host"],
        port=started["port"],
        user=started["user"],
        pwd=started["password"],
        sslContext=ssl.create_default_context(cafile=started["certificate"]),
    )
    vm = machine(service, "prod/web1")
    first = take_snapshot(vm, "first")
    base = change_id(first)
    remove(first)
    guest = next(disk["file"] for disk in remote.vms()[0]["disks"] if disk["key"] == DISK)
    fd = os.open(guest, os.O_WRONLY)
    os.pwrite(fd, b"by hand", 3 * BLOCK)
    os.close(fd)
    remote.write(vm="web1", disk=DISK, offset=0, data=b"by remote")
    snapshot = take_snapshot(vm, "second")

    assert changed(vm, snapshot, base) == [(0, BLOCK), (3 * BLOCK, BLOCK)]
    assert remote.truth(snapshot="second", disk=DISK)["size"] == 1 << 20
    assert remote.read(vm="web1", disk="data", offset=0, length=4) == bytes(4)
    Disconnect(service)
    service._stub.DropConnections()


def test_the_ready_line_has_all_that_a_client_needs(started: dict[str, Any]) -> None:
    assert started["url"] == f"https://127.0.0.1:{started['port']}/sdk"
    assert len(started["thumbprint"].split(":")) == 32
    assert started["nbd"].startswith("nbd://127.0.0.1:")
    assert Path(started["certificate"]).read_text().startswith("-----BEGIN CERTIFICATE")


def test_slots_labels_and_files_come_from_the_inventory(remote: Remote) -> None:
    disks = remote.vms()[0]["disks"]

    assert [(disk["key"], disk["label"], disk["size"]) for disk in disks] == [
        (2000, "Hard disk 1", 1 << 20),
        (16004, "data", 2 << 20),
    ]


def test_a_refused_operation_has_a_reason(started: dict[str, Any], remote: Remote) -> None:
    with pytest.raises(ControlError, match="0 machines have the name or id 'nobody'"):
        remote.power(vm="nobody", state="on")
    with pytest.raises(ControlError, match="InvalidPowerState"):
        remote.power(vm="web1", state="on")
    with pytest.raises(ControlError, match="no operation"):
        remote.explode()
    stranger = Remote(started["url"], started["certificate"], "wrong")
    with pytest.raises(ControlError, match="token"):
        stranger.vms()


def test_an_invalid_inventory_is_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[[vm]]\nname = "x"\ncolour = "red"\n')
    command = [sys.executable, "-m", "tools.vsim", "--inventory", str(tmp_path / "bad.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 2
    assert done.stderr == "vsim: unknown key of MachineEntry: colour\n"
