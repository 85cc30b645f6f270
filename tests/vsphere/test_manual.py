"""The commands without a repository that docs/vsphere.md shows, run as they stand."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.cli.main import main
from tests.vsphere.support import MIB
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate

PAGE = (Path(__file__).parents[2] / "docs" / "vsphere.md").read_text()
COMMANDS = re.findall(r"^cbtfs ((?:cbt|doctor) .*)$", PAGE, re.M)
USER = UserEntry("backup@vsphere.local", "secret")


@pytest.fixture(scope="module")
def sim(certificate: Certificate) -> Iterator[Simulator]:
    machines = tuple(MachineEntry(name, disks=(DiskEntry(size=MIB),)) for name in ("web1", "db1"))
    inventory = Inventory(users=(USER,), machines=machines)
    with Simulator(inventory, certificate=certificate) as made:
        yield made


def test_the_manual_shows_each_of_them() -> None:
    assert {line.split(" --")[0] for line in COMMANDS} == {
        "cbt status", "cbt enable", "cbt reset", "doctor",
    }  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_manual(
    sim: Simulator, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the server's name, which stands for one that the system's CAs vouch for."""
    password = tmp_path / "vc1"
    password.touch(0o600)
    password.write_text(USER.password)
    stand_in = {"vc1.example": f"{sim.host}:{sim.port}", "/etc/cbtfs/vc1": str(password)}
    words = [stand_in.get(word, word) for word in shlex.split(line)]

    assert main([*words, "--ca-file", str(sim.certificate.certificate)]) == 0
    assert "web1" in capsys.readouterr().out
