"""The hardware of a guest from `config.json`, and the command line that QEMU gets for it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.errors import MountFailed, UsageError
from cbtfs.ingest.vsphere.small_files import encode_config
from cbtfs.qemu.guest import Guest, running_guest
from cbtfs.qemu.hardware import BUSES, Hardware, Slot, parse_hardware
from cbtfs.qemu.machine import Consoles, Efi, Machine, Network
from tools.vsim.soap.vmodl import vim

UUID: Final = "421a3f9e-7c1b-4a3c-9d1e-2f3a4b5c6d7e"
DEVICES: Final = vim.vm.device


def config(firmware: str = "bios") -> bytes:
    """Return a configuration as ingest stores it: two SCSI disks, one of SATA, a network card."""

    def disk(key: int, controller: int, unit: int, uuid: str) -> Any:
        backing = DEVICES.VirtualDisk.FlatVer2BackingInfo(uuid=uuid, fileName="x", diskMode="x")
        return DEVICES.VirtualDisk(
            key=key, controllerKey=controller, unitNumber=unit, backing=backing
        )

    return encode_config(
        vim.vm.ConfigInfo(
            firmware=firmware,
            uuid=UUID,
            guestId="windows2019srv_64Guest",
            hardware=vim.vm.VirtualHardware(
                numCPU=4,
                memoryMB=2048,
                device=[
                    DEVICES.ParaVirtualSCSIController(key=1000, busNumber=0),
                    DEVICES.VirtualLsiLogicSASController(key=1001, busNumber=1),
                    DEVICES.VirtualAHCIController(key=15000, busNumber=0),
                    DEVICES.VirtualVmxnet3(key=4000),
                    disk(2000, 1000, 0, "6000C29A-AAAA"),
                    disk(2017, 1001, 1, "6000c29a-bbbb"),
                    disk(16000, 15000, 0, "6000c29a-cccc"),
                ],
            ),
        )
    )


def test_the_hardware_is_that_of_the_configuration() -> None:
    hardware = parse_hardware(config("efi"))

    assert (hardware.firmware, hardware.cpus, hardware.memory_mib) == ("efi", 4, 2048)
    assert (hardware.nic, hardware.uuid, hardware.is_clock_local) == ("vmxnet3", UUID, True)
    identities = ["uuid:6000c29a-aaaa", "key:2017", "uuid:6000c29a-cccc", "other"]
    assert hardware.slots_of(identities)[:3] == [
        *(Slot("pvscsi", 0, 0), Slot("sas", 1, 1), Slot("sata", 0, 0)),
    ]
    assert hardware.slots_of(identities)[3].bus == "pvscsi"
    assert [slot.bus for slot in Hardware().slots_of(["a", "b"])] == ["sata", "sata"]


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@given(st.data())
def test_any_configuration_is_read_or_refused(data: st.DataObject) -> None:
    document = json.loads(config())
    owner = data.draw(
        st.sampled_from(
            [
                *(document, document["config"], document["config"]["hardware"]),
                *document["config"]["hardware"]["device"],
            ]
        )
    )
    owner[data.draw(st.sampled_from(sorted(owner)))] = data.draw(JSON)

    try:
        hardware = parse_hardware(json.dumps(document).encode())
    except ValueError:
        return

    assert hardware.cpus > 0
    assert hardware.memory_mib > 0
    assert all(slot.bus in BUSES for slot in hardware.slots.values())


def machine(slots: list[Slot], folder: Path = Path("/run/x"), **more: Any) -> Machine:
    consoles = Consoles(folder / "serial,sock", folder / "log", folder / "vnc", folder / "agent")
    nodes = [f"disk{number}" for number in range(len(slots))]
    return Machine(Hardware(memory_mib=64), nodes, slots, "tcg", consoles, **more)


def devices(options: list[str]) -> list[dict[str, Any]]:
    return [json.loads(word) for word in options if word.startswith('{"driver"')]


def test_the_machine_has_no_network_unless_it_gets_one() -> None:
    options = machine([]).options()
    assert options[options.index("-nic") + 1] == "none"
    assert "spawn=deny" in options[options.index("-sandbox") + 1]
    assert devices(options) == []
    dead = machine([], has_dead_nic=True).options()
    assert dead[dead.index("-nic") + 1] == "none"
    assert devices(dead) == [{"driver": "e1000", "romfile": ""}]

    options = machine([], network=Network("bridge,br=br0", "52:54:00:00:00:01")).options()

    assert "-nic" not in options
    assert options[options.index("-netdev") + 1] == "bridge,br=br0,id=net0"
    assert options[options.index("-sandbox") + 1].startswith("on")
    assert devices(options)[-1]["driver"] == "e1000"


def test_disks_boot_in_order_and_full_controllers_are_followed_by_others() -> None:
    slots = [Slot("lsi", 0, unit) for unit in range(9)] + [Slot("lsi", 1, 0), Slot("nvme", 0, 3)]

    built = devices(machine(slots).options())

    disks = [device for device in built if "drive" in device]
    assert [device["bootindex"] for device in disks] == list(range(1, 12))
    assert [device["bus"] for device in disks] == [
        *["lsi0.0"] * 7,
        *["lsi1.0"] * 2,
        *("lsi2.0", "nvme0"),
    ]
    assert [d["id"] for d in built if "id" in d] == ["lsi0", "lsi1", "lsi2", "nvme0"]


def test_more_disks_than_the_machine_has_space_for_are_refused() -> None:
    for slots in (
        [Slot("ide", n // 2, n % 2) for n in range(5)],
        [Slot("virtio", n) for n in range(30)],
    ):
        with pytest.raises(UsageError, match="--bus"):
            machine(slots).options()


@contextmanager
def started(folder: Path, slots: list[Slot], **more: Any) -> Iterator[Guest]:
    """Run a guest with empty disks, which does not execute an instruction."""
    nodes = []
    for number in range(len(slots)):
        node = {"driver": "null-co", "node-name": f"disk{number}", "read-zeroes": True}
        nodes += ["-blockdev", json.dumps(node)]
    with running_guest([*machine(slots, folder, **more).options(), *nodes, "-S"]) as guest:
        yield guest


def test_qemu_has_all_devices_and_makes_screenshots(tmp_path: Path) -> None:
    slots = [Slot(bus, 0, unit) for bus in BUSES for unit in range(2)]
    for name in ("code", "variables"):
        (tmp_path / name).write_bytes(bytes(256 << 10))
    efi = Efi(tmp_path / "code", tmp_path / "variables")
    network = Network("user", "52:54:00:00:00:01")

    with started(tmp_path, slots, efi=efi, network=network) as guest:
        blocks = guest.qmp.execute("query-block")
        guest.screenshot(tmp_path / "screen.png")
        with pytest.raises(MountFailed, match="refused no-such"):
            guest.qmp.execute("no-such")
        guest.qmp.execute("cont")
        assert next(guest.qmp.events(30))["event"] == "RESUME"

    assert guest.child.returncode == 0
    assert (
        len([block for block in blocks if block["inserted"]["node-name"].startswith("disk")]) == 14
    )
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")


def test_refused_options_are_an_error_with_the_words_of_qemu() -> None:
    with (
        pytest.raises(MountFailed, match="unsupported machine type"),
        running_guest(["-M", "no-such-machine"]),
    ):
        raise AssertionError
