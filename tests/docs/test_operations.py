"""docs/operations.md: systemd units, names of metrics, and commands, as printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.mounts

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "operations.md").read_text("utf-8")
COMMANDS: Final = (ROOT / "docs" / "commands.md").read_text("utf-8")
METRICS: Final = (ROOT / "cbtfs" / "cli" / "report" / "metrics.py").read_text("utf-8")
SIZE: Final = 1 << 20
LABELS: Final = ("Hard disk 1", "b/c", "d", "é")
_NAMESPACE: Final = """\
set -e
mount --make-rprivate /
mount --bind {folder} /srv
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def test_systemd_takes_service_and_timer(tmp_path: Path) -> None:
    units = []
    for text in blocks("ini"):
        name = Path(text.partition("\n")[0].removeprefix("# ")).name
        program = Path(sys.executable).with_name("cbtfs")
        units.append(tmp_path / name)
        units[-1].write_text(text.replace("/usr/local/bin/cbtfs", str(program)))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        check=False,
        capture_output=True,
        text=True,
    )
    assert [unit.suffix for unit in units] == [".service", ".timer", ".service"]
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["ingest vsphere", "watch"])
def test_the_options_of_the_services_exist(name: str) -> None:
    (command,) = re.findall(rf"^ExecStart=\S+ ({name}) (.*)$", PAGE, re.M)
    shown = subprocess.run(
        [sys.executable, "-m", "cbtfs", *command[0].split(), "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout

    for option in re.findall(r"--[a-z-]+", command[1]):
        assert f"{option} " in shown


def test_the_documents_name_the_metrics_that_are_written() -> None:
    written = {f"cbtfs_{name}" for name in re.findall(r'"((?:vm|run)_[a-z_]+)"', METRICS)}
    described = set(re.findall(r"`(cbtfs_[a-z_]+)`", COMMANDS))
    used = set(re.findall(r"\bcbtfs_[a-z_]+", PAGE))

    assert len(written) > 15
    assert described == written
    assert used <= written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for /srv: a repository of ten VMs with four disks each."""
    srv = tmp_path_factory.mktemp("operations")
    for number in range(40):
        (srv / f"{number}.raw").write_bytes(os.urandom(20_000 + number).ljust(SIZE, b"\0"))
    script = ["set -e", "cbtfs init"]
    for vm in range(10):
        disks = [f"--disk '{label}={4 * vm + n}.raw'" for n, label in enumerate(LABELS)]
        when = f"--time 2026-11-{vm + 1:02}T00:00:00Z"
        script.append(f"cbtfs ingest image --vm 'vm {vm}' {when} {' '.join(disks)}")
    script.insert(2, "cbtfs ingest image --vm 'vm 0' --time 2026-10-01T00:00:00Z --disk b/c=0.raw")
    subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=srv,
        check=True,
        capture_output=True,
        env=environment() | {"CBTFS_REPO": "repository"},
    )
    return srv


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": "/srv", "CBTFS_REPO": "/srv/repository"}


def test_the_other_commands_run_in_order(tmp_path: Path) -> None:
    """A VM with four points: one is left after the rules and the commands of the page."""
    disk = tmp_path / "web01.raw"
    made = ["cbtfs init"]
    for day, hour in ((1, "12-00-00"), (20, "00-15-03"), (22, "06-00-00"), (22, "12-00-00")):
        time = f"2026-11-{day:02}T{hour.replace('-', ':')}Z"
        made.append(f"mke2fs -q -F -t ext4 {disk} 512k")
        made.append(f"cbtfs ingest image --vm web01 --disk root --time {time} {disk}")
    shown = [block for block in blocks("sh") if not block.startswith("cbtfs restore --all")]
    script = "\n".join(["set -e", *made, *shown, "cbtfs list --json > listed"])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env=environment() | {"CBTFS_REPO": "repository", "HOME": str(tmp_path)},
    )
    points = json.loads((tmp_path / "listed").read_text())["points"]

    assert len(shown) == 9
    assert done.returncode == 0, done.stderr
    assert [point["time"] for point in points] == ["2026-11-22T12:00:00Z"]
    assert "<svg" in (tmp_path / "web01.svg").read_text()


def test_forty_disks_are_restored_four_at_a_time(folder: Path) -> None:
    (recipe,) = [block for block in blocks("sh") if block.startswith("cbtfs restore --all")]
    in_the_way = folder / "restored" / "vm 7" / "2026-11-08T00-00-00Z" / "Hard disk 1.raw"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("kept\n")
    first, rest = recipe.split("\n", 1)
    script = f"{_NAMESPACE.format(folder=folder)}set +e\n{first}\necho $?\n{rest}"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    code, failed = done.stdout.splitlines()

    assert (done.returncode, code) == (0, "3"), done.stderr
    assert failed.startswith("vm 7 Hard disk 1: ")
    assert in_the_way.read_text() == "kept\n"
    for number in set(range(40)) - {28}:
        vm, disk = divmod(number, 4)
        point = folder / "restored" / f"vm {vm}" / f"2026-11-{vm + 1:02}T00-00-00Z"
        restored = point / f"{('Hard disk 1', 'b%2Fc', 'd', 'é')[disk]}.raw"
        assert restored.read_bytes() == (folder / f"{number}.raw").read_bytes()
