"""Programs under wrong clocks, by faketime: the latest point, and the content of a mount."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run_cbtfs import Run, runner
from tests.make_points import new_repository
from tests.mount.mount_process import serving
from tests.naming import Names, vm_of

CLOCKS = ("1970-01-02", "2019-06-01", "2038-01-20", "2099-12-31")


def fake(clock: str) -> tuple[str, ...]:
    """Return the words that run a command under a clock that starts at noon of that day."""
    real = "FAKETIME_DONT_FAKE_MONOTONIC=1"
    return ("env", "TZ=UTC", real, "faketime", "-f", f"@{clock} 12:00:00")


class Site:
    """A repository and an image; commands run under the true clock or a wrong one."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.repository = folder / "repository"
        self.image = folder / "disk.raw"
        self.back = folder / "back.raw"
        self._run = run

    def run(self, clock: str | None, *arguments: str | Path) -> Any:
        if clock is None:
            return self._run(*arguments).document
        command = [*fake(clock), sys.executable, "-m", "cbtfs", f"--repo={self.repository}"]
        done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    def ingest(self, clock: str | None, content: bytes) -> str:
        self.image.write_bytes(content)
        arguments = ("ingest", "image", "--vm=web01", "--disk=disk", "--json", self.image)
        point: str = self.run(clock, *arguments)["point"]
        return point

    def latest(self, clock: str | None) -> str:
        point: str = self.run(clock, "show", "web01@latest", "--json")["id"]
        return point


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    repository = new_repository(tmp_path / "repository")
    return Site(tmp_path, runner(repository, capsys))


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_capture_under_a_wrong_clock_is_latest_until_the_next_and_no_longer(
    site: Site, clock: str
) -> None:
    before = site.ingest(None, b"before")
    wrong = site.ingest(clock, b"wrong")
    assert site.latest(None) == wrong
    after = site.ingest(None, b"after")

    assert site.latest(None) == after
    document = site.run(clock, "restore", "web01@latest", "disk", site.back, "--json")
    assert document["point"] == after
    assert site.back.read_bytes() == b"after"
    listed = site.run(None, "list", "--json")["points"]
    assert [point["id"] for point in listed] == [before, wrong, after]
    assert [point["is_out_of_order"] for point in listed] == [False, True, False]
    assert site.run(None, "show", f"web01@{clock}T12:59Z", "--json")["id"] == wrong
    kept = site.run(None, "forget", "--keep-last=1", "--dry-run", "--json")
    assert after not in kept["forgotten"]


def test_an_import_under_a_wrong_clock_is_judged_by_that_clock(site: Site) -> None:
    site.ingest(None, b"x")
    command = [*fake("1970-01-02"), sys.executable, "-m", "cbtfs", f"--repo={site.repository}"]
    command += ["ingest", "image", "--vm=web01", "--disk=disk", "--time=2019-01-01T00:00:00Z"]
    refused = subprocess.run([*command, site.image], check=False, capture_output=True, text=True)

    assert refused.returncode == 2
    assert "ahead of the clock, which shows 1970-01-02T12:00:" in refused.stderr


def test_two_vms_of_one_name_are_distinguished_under_any_clocks(site: Site) -> None:
    """The second VM gets the name although its clock is a century behind."""
    first = replace(vm_of("a", "web01"), vcenter="vc", instance_uuid="u")
    Names(site.repository).add("2099-01-01T00:00:00Z", first)
    image = site.ingest("1970-01-02", b"second")

    assert site.latest(None) == image
    assert site.run(None, "show", "web01~aaaaaaaa", "--json")["vm"]["vcenter"] == "vc"


@pytest.mark.mounts
@pytest.mark.parametrize("clock", ["1970-01-02", "2099-12-31"])
def test_a_mount_under_a_wrong_clock_shows_the_same_latest(
    site: Site, clock: str, tmp_path: Path
) -> None:
    site.ingest("2038-01-20", b"wrong")
    site.ingest(None, b"right")
    program = (*fake(clock), sys.executable, "-m", "cbtfs")

    with serving(site.repository, tmp_path / "mnt", "--workers=1", program=program) as server:
        vm = server.root / "web01"
        assert (vm / "latest" / "disk.raw").read_bytes() == b"right"
        assert (vm / "@2038-01-20T12:59Z" / "disk.raw").read_bytes() == b"wrong"
        assert (vm / "@-1min").exists() == (clock == "2099-12-31")
        assert os.listdir(server.root) == ["web01"]
