"""A VM moves to another host while its disks are read by NFC from the first one."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.scenarios.vsphere.site import MIB, VM, Lab, by_nfc, new_lab, one_vm
from tools.vsim import DiskEntry, HostEntry, Simulator
from tools.vsim.soap.certificate import Certificate

HOSTS = (HostEntry("esx1", address="127.0.0.1"), HostEntry("esx2", address="127.0.0.2"))


@pytest.fixture
def two_hosts(
    tmp_path: Path, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> Iterator[Lab]:
    """A site with two hosts with different certificates; the VM is on the first one."""
    caplog.set_level(logging.INFO, "cbtfs.source.transport.nfc")
    inventory = replace(one_vm(DiskEntry(size=9 * MIB), cbt=True), hosts=HOSTS)
    with Simulator(inventory, certificate=certificate) as sim:
        lab = new_lab(sim, tmp_path, by_nfc)
        for number in range(9):
            lab.write(number * MIB + 1000, b"%d before the move" % number * 500)
        yield lab


def hosts_read(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the addresses from which disks were read, without repetitions."""
    words = [record.getMessage().split() for record in caplog.records]
    hosts = [word[-3] for word in words if word[0] == "reading"]
    return list(dict.fromkeys(hosts))


def move_at(lab: Lab, point: str, number: int) -> None:
    """Move the VM to the second host before the answer number *number* at *point*."""
    arguments = {"vm": VM, "host": "esx2"}
    lab.sim.do.on_nfc(
        point=point, action="operation", operation="vmotion", arguments=arguments, at=number
    )


def assert_captured(lab: Lab) -> None:
    lab.ingest(want="full")
    lab.assert_all_true()
    lab.assert_clean()
    assert lab.sim.do.nfc_counts()["open_disks"] == 0


def test_the_run_continues_on_the_host_to_which_the_vm_moved(
    two_hosts: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    two_hosts.sim.do.set_knobs("nfc", vmotion="ends")
    move_at(two_hosts, "read", 4)
    assert_captured(two_hosts)

    assert hosts_read(caplog) == ["127.0.0.1", "127.0.0.2"]
    caplog.clear()
    two_hosts.write(0, b"after the move")
    two_hosts.ingest()
    two_hosts.assert_all_true()
    assert hosts_read(caplog) == ["127.0.0.2"]


def test_an_open_disk_is_read_to_its_end_from_the_first_host(
    two_hosts: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """ESXi 8.0.1 was observed to keep open sessions."""
    move_at(two_hosts, "read", 4)
    assert_captured(two_hosts)

    assert hosts_read(caplog) == ["127.0.0.1"]


@pytest.mark.parametrize("opening", [1, 2, 3], ids=["negotiation", "probe", "disk"])
def test_a_ticket_of_the_first_host_is_replaced_after_the_move(
    two_hosts: Lab, caplog: pytest.LogCaptureFixture, opening: int
) -> None:
    move_at(two_hosts, "greeting", opening)
    assert_captured(two_hosts)
    refused = two_hosts.sim.do.nfc_counts()["tickets_refused"]

    assert refused == 1
    assert hosts_read(caplog)[-1] == "127.0.0.2"
