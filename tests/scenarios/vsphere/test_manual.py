"""The commands in docs/vsphere.md and README.md, run as printed."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbtfs.cli.main import main
from tests.scenarios.vsphere.site import MIB
from tools.vsim import DatastoreEntry, DiskEntry, Inventory, MachineEntry, Simulator, UserEntry
from tools.vsim.soap.certificate import Certificate

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "vsphere.md").read_text()
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^cbtfs ((?:cbt|doctor) .*)$", PAGE, re.M)
INGESTS = re.findall(
    r"^cbtfs (?:--repo \S+ )?(ingest vsphere (?:.*\\\n)*.*)$", f"{PAGE}\n{README}", re.M
)
USER = UserEntry("backup@vsphere.local", "secret")


@pytest.fixture(scope="module")
def sim(certificate: Certificate) -> Iterator[Simulator]:
    disks = (DiskEntry(size=MIB),)
    machines = (
        MachineEntry("web1", disks=disks),
        MachineEntry("db1", "Amsterdam", folder="prod", datastore="ds2", disks=disks),
        MachineEntry("app1", instance_uuid="50230f5c-0d7b-9a6e-5f3b-0d2c7a51b9e4", disks=disks),
    )
    inventory = Inventory(
        users=(USER,),
        datacenters=("DC0", "Amsterdam"),
        datastores=(DatastoreEntry(), DatastoreEntry("ds2", "Amsterdam")),
        machines=machines,
    )
    with Simulator(inventory, certificate=certificate) as made:
        yield made


def test_the_manual_shows_every_command() -> None:
    assert {line.split(" --")[0] for line in COMMANDS} == {
        "cbt status", "cbt enable", "cbt reset", "doctor",
    }  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_manual(
    sim: Simulator, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_trial = "--try-nfc" in line
    if is_trial:
        sim.do.power("web1", "off")
    assert main([*words(sim, line, tmp_path), *trusting(sim)]) == 0
    expected = "NFC and HTTPS return the same bytes" if is_trial else "web1"
    assert expected in capsys.readouterr().out
    if is_trial:
        sim.do.power("web1", "on")


def test_the_commands_of_the_page_work_on_one_repository(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = f"--repo={tmp_path / 'repository'}"
    assert "\ncbtfs --repo /srv/backup init\n" in PAGE
    assert main([repository, "init"]) == 0
    taken = []
    for line in INGESTS:
        asked = words(sim, line, tmp_path)
        capsys.readouterr()
        assert main([repository, *asked, *trusting(sim), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        taken.append([point["vm"] for point in document["points"]])

    assert [sorted(names) for names in taken] == [
        ["web1"],
        ["app1", "db1", "web1"],
        ["db1", "web1"],
    ]


def test_the_thumbprint_equals_that_of_openssl(sim: Simulator, tmp_path: Path) -> None:
    (line,) = re.findall(r"^(openssl x509 .*)#", PAGE, re.M)
    (there,) = re.findall(r"/etc/\S+", line)
    asked = shlex.split(line.replace(there, str(sim.certificate.certificate)))
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    thumbprint = said.strip().partition("=")[2]

    status = next(command for command in COMMANDS if command.startswith("cbt status"))
    assert main([*words(sim, status, tmp_path), f"--thumbprint={thumbprint}"]) == 0
    assert main([*words(sim, status, tmp_path), f"--thumbprint={thumbprint[::-1]}"]) != 0


def words(sim: Simulator, line: str, folder: Path) -> list[str]:
    """Return the words of a command, with the simulator in place of its server."""
    password = folder / "vc1"
    password.touch(0o600)
    password.write_text(USER.password)
    stand_in = {
        "vc1.example": f"{sim.host}:{sim.port}",
        "/etc/cbtfs/vc1": str(password),
        "/etc/cbtfs/ca.pem": str(sim.certificate.certificate),
    }
    return [stand_in.get(word, word) for word in shlex.split(line.replace("\\\n", " "))]


def trusting(sim: Simulator) -> list[str]:
    """Trust the certificate of the simulator like one of the system's CAs."""
    return ["--ca-file", str(sim.certificate.certificate)]
