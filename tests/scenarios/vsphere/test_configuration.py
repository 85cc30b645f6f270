"""docs/configuration.md: its example logs in to the simulator and runs the nightly job."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from tests.scenarios.vsphere.site import VM, Lab

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
EXAMPLE = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)[0]


@pytest.fixture
def config(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of the page, with the address, the user and the files of this test."""
    sim = lab.sim
    password = tmp_path / "vc1.password"
    password.write_text(sim.user.password + "\n")
    password.chmod(0o600)
    replaced = {
        r"/srv/backup": str(lab.repository),
        r"vc1\.example": f"{sim.host}:{sim.port}",
        r"backup@vsphere\.local": sim.user.name,
        r"/etc/cbtfs/vc1\.password": password.name,
        r"(?<=thumbprint = \")[0-9a-f:]+": sim.certificate.thumbprint,
        r"/var/lib/prometheus/node-exporter": str(tmp_path),
    }
    text = EXAMPLE
    for pattern, value in replaced.items():
        assert re.search(pattern, text)
        text = re.sub(pattern, value.replace("\\", r"\\"), text)
    file = tmp_path / "config.toml"
    file.write_text(text)
    file.chmod(0o600)
    monkeypatch.setenv("CBTFS_CONFIG", str(file))
    monkeypatch.delenv("CBTFS_REPO", raising=False)
    return file


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


@pytest.mark.usefixtures("config")
def test_the_job_of_the_page_takes_a_point_of_each_vm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, document, err = call(capsys, "run", "nightly")

    assert code == 0, err
    ingest, forget, check = document["steps"]
    assert [point["vm"] for point in ingest["document"]["points"]] == [VM]
    assert forget["document"]["time_zone"] == "Europe/Berlin"
    assert check["document"]["problems"] == []
    assert "cbtfs_run_success" in (tmp_path / "cbtfs-nightly.prom").read_text()


@pytest.mark.usefixtures("config")
def test_a_server_of_the_file_serves_cbt_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "cbt", "status", "--server", "vc1", VM)[0] == 0
    assert call(capsys, "doctor", "--server", "vc1", VM)[1]["failed"] == []


def test_the_environment_names_server_and_user(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = ("cbt", "status", VM)
    code, document, _ = call(capsys, *status)
    assert (code, document["error"]["code"]) == (2, 2)
    assert "CBTFS_VSPHERE_SERVER" in document["error"]["message"]

    monkeypatch.setenv("CBTFS_VSPHERE_SERVER", "vc1")
    assert call(capsys, *status)[0] == 0
    assert call(capsys, *status, "--server", "none.invalid", "--user", "x")[0] != 0

    monkeypatch.setenv("CBTFS_VSPHERE_USER", "nobody")
    assert call(capsys, *status)[0] == 31

    config.write_text(re.sub("^user.*$", "", config.read_text(), flags=re.M))
    monkeypatch.delenv("CBTFS_VSPHERE_USER")
    assert call(capsys, *status)[0] == 2


def test_a_password_of_the_environment_wins_over_the_file_of_the_table(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = ("cbt", "status", "--server", "vc1", VM)
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "wrong")
    assert call(capsys, *status)[0] == 31

    password = str(config.with_name("vc1.password"))
    assert call(capsys, *status, "--password-file", password)[0] == 0


def test_trust_of_the_command_line_replaces_that_of_the_table(
    config: Path, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    status = ("cbt", "status", "--server", "vc1", VM)
    assert call(capsys, *status, "--thumbprint", "00" * 32)[0] != 0
    assert call(capsys, *status, "--ca-file", str(lab.sim.certificate.certificate))[0] == 0
