"""--metrics: the samples of complete, partial and failed runs."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from cbtfs.cli.main import main
from tests.ingest.audit.silent_tracker import listed
from tests.scenarios.vsphere.command import arguments, start
from tests.scenarios.vsphere.site import MIB, Lab, new_lab
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import Certificate

NAME = 'a "quoted" \\ name'


@pytest.fixture
def three(tmp_path: Path, certificate: Certificate) -> Iterator[Lab]:
    machines = tuple(
        MachineEntry(name, cbt=True, disks=(DiskEntry(size=MIB), DiskEntry(size=MIB)))
        for name in ("web1", "web2", "odd")
    )
    with Simulator(Inventory(machines=machines), certificate=certificate) as sim:
        sim.do.rename("odd", NAME)
        yield new_lab(sim, tmp_path)


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")


class Scrape:
    """The metrics in a file."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text("utf-8")
        self.families = {
            family.name: family for family in text_string_to_metric_families(self.text)
        }

    def family(self, name: str) -> Metric:
        return self.families[f"cbtfs_{name}"]

    def of(self, name: str, **labels: str) -> list[float]:
        """Return the values of the samples with these labels."""
        return [
            sample.value
            for sample in self.family(name).samples
            if labels.items() <= sample.labels.items()
        ]

    def run(self, name: str) -> float:
        (value,) = self.of(f"run_{name}")
        return value

    def vms(self, name: str) -> dict[str, float]:
        return {sample.labels["vm"]: sample.value for sample in self.family(f"vm_{name}").samples}


def ingest(lab: Lab, *more: str) -> tuple[int, Scrape]:
    file = lab.repository.parent / "nightly.prom"
    code = main([*arguments(lab, "--metrics", str(file), *more)[3:]])
    return code, Scrape(file)


def test_a_complete_run(three: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    began = int(time.time())
    code, scrape = ingest(three, "--jobs", "2", "web*", NAME)
    out, err = capsys.readouterr()
    document = json.loads(out)

    assert code == scrape.run("exit_code") == 0, err
    assert scrape.run("success") == 1
    assert began <= scrape.run("timestamp_seconds") <= time.time()
    assert scrape.vms("success") == {"web1": 1, "web2": 1, NAME: 1}
    assert scrape.vms("size_bytes") == dict.fromkeys(("web1", "web2", NAME), 2 * MIB)
    for point in document["points"]:
        read = sum(disk["read_bytes"] for disk in point["disks"])
        stored = sum(disk["stored_bytes"] for disk in point["disks"])
        assert scrape.vms("read_bytes")[point["vm"]] == read
        assert scrape.vms("stored_bytes")[point["vm"]] == stored
        assert scrape.vms("last_good_point_timestamp_seconds")[point["vm"]] >= began - 1
    assert scrape.of("vm_whole_disks", vm="web1", reason="first") == [2]
    assert scrape.of("vm_untracked_disks", vm="web1") == [0]
    assert scrape.of("vm_point_info", vm="web2", kind="full", transport="nfc") == [1]
    assert {sample.labels["run"] for f in scrape.families.values() for sample in f.samples} == {
        "nightly"
    }
    for line in scrape.text.splitlines():
        assert line.startswith(("# HELP cbtfs_", "# TYPE cbtfs_", "cbtfs_"))


def test_a_disk_with_its_own_setting_off_is_counted(three: Lab) -> None:
    ingest(three, "web1")
    three.sim.do.set_disk_tracking("web1", 2001, False)
    _, scrape = ingest(three, "web1")

    assert scrape.of("vm_untracked_disks", vm="web1") == [1]


def test_a_vm_that_fails_keeps_its_last_good_point(three: Lab) -> None:
    _, first = ingest(three, "web*")
    three.sim.do.advance(7200)
    three.sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.NoDiskSpace", target="web2")
    code, scrape = ingest(three, "web*", "none")
    name = "last_good_point_timestamp_seconds"

    assert code == scrape.run("exit_code") == 3
    assert scrape.vms("success") == {"web1": 1, "web2": 0, "none": 0}
    assert scrape.vms("exit_code") == {"web1": 0, "web2": 30, "none": 2}
    assert scrape.vms(name)["web2"] == first.vms(name)["web2"]
    assert scrape.vms(name)["web1"] > first.vms(name)["web1"] + 7000
    assert scrape.vms("points") == {"web1": 2, "web2": 1}
    assert scrape.of("vm_size_bytes", vm="web2") == []


def test_a_vm_without_a_point_has_a_zero_timestamp(three: Lab) -> None:
    three.sim.do.on_call("CreateSnapshot_Task", fault="vim.fault.NoDiskSpace")
    code, scrape = ingest(three, "web1")

    assert code == 30
    assert scrape.vms("last_good_point_timestamp_seconds") == {"web1": 0}


def test_a_run_without_a_login_still_reports_earlier_points(
    three: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = ingest(three, "web*", NAME)
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "wrong")
    code, scrape = ingest(three, "web?")
    name = "last_good_point_timestamp_seconds"

    assert code == scrape.run("exit_code") == 31
    assert scrape.vms(name) == {vm: first.vms(name)[vm] for vm in ("web1", "web2")}


def test_a_suspect_point_does_not_count_as_good(three: Lab) -> None:
    ingest(three, "web1")
    three.sim.do.set_disk_cbt("web1", 2000, silent_misses=1.0)
    three.write(0, b"unseen" * 100_000, vm="web1")
    ingest(three, "--audit", "0", "web1")
    ingest(three, "--audit", "100%", "web1")
    code, scrape = ingest(three, "web1")

    assert code == 0
    assert scrape.vms("suspect_points")["web1"] >= 1
    assert scrape.vms("points") == {"web1": 4}
    assert scrape.vms("unacknowledged_suspect_points") == scrape.vms("suspect_points")

    for point in listed(three.repository).values():
        if point.suspect is not None:
            tag = ["tag", point.manifest.point, "acknowledged"]
            assert main(["--repo", str(three.repository), *tag]) == 0
    _, after = ingest(three, "web1")

    assert after.vms("unacknowledged_suspect_points") == {"web1": 0}
    assert after.vms("suspect_points") == scrape.vms("suspect_points")


def test_a_point_without_a_disk_does_not_count_as_good(
    tmp_path: Path, certificate: Certificate
) -> None:
    disks = (DiskEntry(size=MIB), DiskEntry(size=MIB, mode="independent_persistent"))
    with Simulator(
        Inventory(machines=(MachineEntry("web1", disks=disks),)), certificate=certificate
    ) as sim:
        lab = new_lab(sim, tmp_path)
        code, partly = ingest(lab, "web1")
        _, excluded = ingest(lab, "--exclude-disk", "Hard disk 2", "web1")
    name = "last_good_point_timestamp_seconds"

    assert (code, partly.vms("exit_code")) == (3, {"web1": 3})
    assert partly.vms("disks_left_out") == {"web1": 1}
    assert partly.vms(name) == {"web1": 0}
    assert excluded.vms(name)["web1"] > 0


def test_a_locked_repository_and_a_missing_one(three: Lab, tmp_path: Path) -> None:
    ingest(three, "web1")
    with (
        three.context(),
        start(three, "--metrics", str(tmp_path / "locked.prom"), "web1") as process,
    ):
        process.communicate(timeout=60)
    scrape = Scrape(tmp_path / "locked.prom")
    three.repository = tmp_path / "none"
    lost, nothing = ingest(three, "web1")

    assert process.returncode == scrape.run("exit_code") == 11
    assert scrape.vms("last_good_point_timestamp_seconds")["web1"] > 0
    assert lost == nothing.run("exit_code") == 10


def test_a_run_ended_by_a_signal_is_reported_as_such(three: Lab, tmp_path: Path) -> None:
    file = tmp_path / "ended.prom"
    three.sim.do.on_call("QueryEvents", action="delay", seconds=0)
    three.sim.do.on_call("CreateSnapshot_Task", action="hold-task")
    three.sim.do.calls(clear=True)
    with start(three, "--metrics", str(file), "web*") as process:
        three.sim.do.wait_call("WaitForUpdatesEx")
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=60)
    scrape = Scrape(file)

    assert process.returncode == scrape.run("exit_code") == 143, words
    assert scrape.vms("success") == {"web1": 0, "web2": 0}


def test_an_unwritable_file_is_reported_before_the_login(
    three: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    three.sim.do.calls(clear=True)
    code = main(arguments(three, "--metrics", "/nowhere/a.prom", "web1")[3:])

    assert code == 2
    assert "directory /nowhere does not exist" in capsys.readouterr().err
    assert three.sim.do.calls() == []


def test_images_have_metrics_too(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"x" * MIB)
    repository, file = str(tmp_path / "r"), tmp_path / "images.prom"
    assert main(["--repo", repository, "init"]) == 0
    command = ["--repo", repository, "ingest", "image", "--vm", "db", "--disk", "root"]
    command += ["--metrics", str(file)]
    assert main([*command, str(tmp_path / "disk.raw")]) == 0
    first = Scrape(file)
    assert main([*command, str(tmp_path / "gone.raw")]) != 0
    second = Scrape(file)
    name = "last_good_point_timestamp_seconds"

    assert first.vms("success") == {"db": 1}
    assert first.vms("read_bytes") == {"db": MIB}
    assert second.vms("success") == {"db": 0}
    assert second.vms(name) == first.vms(name)
