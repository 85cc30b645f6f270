"""The engine `appliance` reads what `parse` refuses, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from cbtfs.appliance import ApplianceStarter
from cbtfs.core.manifest import Manifest
from cbtfs.errors import UsageError
from cbtfs.files.engine_appliance import install
from cbtfs.files.engine_appliance.engine import Appliance, Setting
from cbtfs.files.protocol import EngineFailed, FileSystemUnsupported
from tests.cli.run_cbtfs import CommandResult, runner
from tests.files.conftest import KEY, Machine
from tests.files.guest_trees import attributes_of
from tests.make_points import new_repository
from tests.mount.mount_process import serving

pytestmark = [pytest.mark.mounts, pytest.mark.limit(1800)]

IS_LONG: Final = "CBTFS_APPLIANCE" in os.environ
"""Set it to start more appliances, each of which takes 10 to 25 seconds."""
END_SECONDS: Final = 30
"""libguestfs looks every other second whether its process exists."""


@contextmanager
def started(starter: ApplianceStarter, manifest: Manifest) -> Iterator[Appliance]:
    raise AssertionError("an appliance was started")
    yield


Run = Callable[..., CommandResult]


@pytest.fixture
def run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command on the point of the machine; the command uses the running appliance."""

    @contextmanager
    def shared(starter: ApplianceStarter, manifest: Manifest) -> Iterator[Appliance]:
        yield machine.appliance

    monkeypatch.setattr(ApplianceStarter, "__call__", shared)
    return runner(machine.repository, capsys)


def test_auto_places_subvolumes_and_thin_volumes_and_names_the_reason(run: Run) -> None:
    done = run("files", "find", "web01:/", "*", "--json")

    paths = [line["path"] for line in done.document]
    assert {"/etc/fstab", "/home/letter", "/srv/page"} <= set(paths)
    assert done.err.count("engine appliance; not by the engine parse: ") == 2
    assert "volume root.p1[/@home]: btrfs" in done.err
    assert "which the engine parse does not read" in done.err


def test_log_and_diff_by_an_appliance_name_it(run: Run) -> None:
    page = run("files", "log", "web01:/page", "--volume", "vg0/thin", "--json").document
    letter = run("files", "log", "web01:/home/letter", "--json").document
    diff = run("files", "diff", "web01", "web01", "/home")

    assert [(v["size"], v["engine"]) for v in page["versions"]] == [(4, "appliance")]
    assert (letter["volume"], letter["path"]) == ("root.p1", "/letter")
    assert [(v["size"], v["engine"]) for v in letter["versions"]] == [(8, "appliance")]
    assert "0 added, 0 removed, 0 changed" in diff.err
    assert "root.p1[/@home]: btrfs, engine appliance" in diff.err


def test_an_index_by_an_appliance_is_searched_by_its_name(run: Run, machine: Machine) -> None:
    indexed = run("files", "index", "web01", "--json").document["points"][0]
    found = run("files", "find", "--in=web01", "letter", "--engine=appliance", "--json").document
    other = run("files", "find", "--in=web01", "letter", "--engine=parse")

    assert {row["engine"] for row in indexed["file_systems"]} == {"appliance"}
    assert [(item["path"], item["engines"]) for item in found] == [("/home/letter", ["appliance"])]
    assert other.code == 3


def test_parse_is_not_replaced_in_log_diff_and_index(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApplianceStarter, "__call__", started)

    log = run("files", "log", "web01:/@home/letter", "--volume=root.p1", "--engine=parse", "--json")
    diff = run("files", "diff", "web01", "web01", "--volume=root.p1", "--engine=parse")

    assert [v["state"] for v in log.document["versions"]] == ["unreadable"]
    assert "btrfs, which the engine parse does not read" in log.document["versions"][0]["failure"]
    assert (diff.code, "engine parse does not read" in diff.err) == (12, True)


def test_hard_links_of_a_subvolume_are_one_file(run: Run, tmp_path: Path) -> None:
    done = run("files", "extract", "web01:/home", tmp_path, "--json")

    assert done.document["files"] == 2
    letter, second = tmp_path / "home" / "letter", tmp_path / "home" / "second-name"
    assert letter.read_text() == "Dear Bob"
    assert letter.samefile(second)


@pytest.mark.parametrize(
    ("volume", "path", "content"),
    [
        ("vg0/thin", "/page", "thin"),
        ("md127", "/mirrored", "twice"),
        ("root.p1", "/@home/letter", "Dear Bob"),
    ],
)
def test_a_volume_that_is_no_slice_has_files(
    run: Run, volume: str, path: str, content: str
) -> None:
    done = run("files", "cat", f"web01:{path}", "--volume", volume)

    assert done.out == content
    assert f"volume {volume}: " in done.err
    assert "engine appliance" in done.err


def test_a_key_opens_an_encrypted_volume(run: Run, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")

    done = run("files", "cat", "web01:/diary", "--volume=root.p2", "--luks-key-file", key)

    assert done.out == "Dear diary"


def test_an_encrypted_volume_without_a_key_is_refused_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApplianceStarter, "__call__", started)

    done = run("files", "ls", "web01:/", "--volume", "root.p2")

    assert done.code == 12
    assert "encrypted (LUKS): give its key with --luks-key-file FILE" in done.err


def test_parse_alone_refuses_and_starts_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApplianceStarter, "__call__", started)

    done = run("files", "ls", "web01:/", "--volume", "root.p1", "--engine", "parse")

    assert done.code == 12
    assert "btrfs, which the engine parse does not read" in done.err


def test_the_log_of_a_busy_xfs_is_replayed(run: Run, machine: Machine) -> None:
    """Its image was copied while it was in use; the suite compares all its files."""
    done = run("files", "stat", "web01:/small", "--volume", "appliance-xfs", "--json")

    [file_system] = done.document["file_systems"]
    assert file_system["engine"] == "appliance"
    assert "has xfs, which the engine parse does not read" in file_system["notes"][0]
    assert done.document["file"]["size"] == len(machine.written["appliance-xfs"].contents["/small"])


def test_fast_commits_are_replayed_by_the_appliance(run: Run, machine: Machine) -> None:
    place = ("files", "stat", "web01:/small", "--volume", "appliance-ext4", "--json")
    refused = run(*place, "--engine=parse")
    replayed = run(*place)

    assert refused.code == 12
    [file_system] = replayed.document["file_systems"]
    assert file_system["engine"] == "appliance"
    assert "fast commit" in file_system["notes"][0]
    assert (
        replayed.document["file"]["inode"]
        == machine.written["appliance-ext4"].entries["/small"].inode
    )


def test_extraction_by_an_appliance_keeps_holes_and_attributes(
    run: Run, machine: Machine, tmp_path: Path
) -> None:
    volume = ("--volume", "appliance-btrfs", "--engine", "appliance", "--special")
    places = [f"web01:/{name}" for name in ("sparse", "attributes", "fragmented")]

    assert run("files", "extract", *places, tmp_path, *volume).code == 0
    sparse = (tmp_path / "sparse").stat()
    written = machine.written["appliance-btrfs"]
    assert sparse.st_size == written.entries["/sparse"].size
    assert sparse.st_blocks * 512 < 1 << 20
    assert attributes_of(tmp_path / "attributes") == written.attributes["/attributes"]
    assert (tmp_path / "fragmented").read_bytes() == written.contents["/fragmented"]


def test_a_volume_without_a_file_system_is_refused(machine: Machine) -> None:
    with pytest.raises(FileSystemUnsupported, match="does not find this volume"):
        machine.appliance.open("nothing", 0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "_KERNELS", tmp_path)
    with pytest.raises(UsageError, match="linux-image-cloud-amd64"):
        install.require_appliance()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="libguestfs-tools"):
        install.require_appliance()


def test_a_mount_that_needs_a_missing_package_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_KERNELS", tmp_path)
    (tmp_path / "mnt").mkdir()
    run = runner(new_repository(tmp_path / "repository"), capsys)

    done = run("mount", tmp_path / "mnt", "--engine", "appliance")
    unknown = run("mount", tmp_path / "mnt", "--engine", "kernel")

    assert (done.code, unknown.code) == (2, 2)
    assert "linux-image-cloud-amd64" in done.err
    assert "none of auto, parse, appliance" in unknown.err


def test_auto_names_the_package_and_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def missing(starter: ApplianceStarter, manifest: Manifest) -> Iterator[Appliance]:
        install.require_appliance()
        yield  # type: ignore[misc]

    monkeypatch.setattr(ApplianceStarter, "__call__", missing)
    monkeypatch.setattr(install, "_KERNELS", tmp_path)

    done = run("files", "ls", "web01:/", "--volume", "root.p1")
    wanted = run("files", "ls", "web01:/", "--engine", "appliance")

    assert (done.code, wanted.code) == (12, 2)
    assert "btrfs, which the engine parse does not read; the engine appliance needs" in done.err
    assert "linux-image-cloud-amd64" in wanted.err


def processes_of(folder: Path) -> list[int]:
    """Return the processes whose command line or environment has *folder*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in text:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_process_is_left_if_the_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    (tmp_path / "run").mkdir()
    program = f"""
from pathlib import Path
from cbtfs.files.engine_appliance.engine import Appliance, Setting
Appliance(Setting([("disk", Path({str(tmp_path / "disk")!r}))], Path({str(tmp_path / "run")!r})))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        is_running = (
            f"cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' ' | "
            f"grep -q 'qemu-system.*{tmp_path}/run'"
        )
        wait_until(lambda: subprocess.run(["sh", "-c", is_running], check=False).returncode == 0)
        parent.send_signal(signal.SIGKILL)

    wait_until(lambda: not processes_of(tmp_path / "run"))


def test_a_start_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    (tmp_path / "run").mkdir()
    setting = Setting([("disk", tmp_path / "disk")], tmp_path / "run", start_seconds=0.2)

    with pytest.raises(EngineFailed, match=r"did not start in 0\.2 s"):
        Appliance(setting)

    wait_until(lambda: not processes_of(tmp_path / "run"))


if IS_LONG:

    def test_an_appliance_that_dies_fails_one_call_and_is_replaced(machine: Machine) -> None:
        file_system = machine.appliance.open("appliance-ext4", 0)
        child = machine.appliance._child
        assert child is not None
        child.kill()

        with pytest.raises(EngineFailed, match="signal 9"):
            file_system.stat("/small")

        assert file_system.read("/small", 0, 100) == b"small\n"

    def test_a_mount_shows_files_by_an_appliance(machine: Machine, tmp_path: Path) -> None:
        options = ("--workers=1", "--engine=auto")
        with serving(machine.repository, tmp_path / "mnt", *options) as server:
            files = server.folder(machine.manifest) / "files"

            assert (files / "home" / "letter").read_text() == "Dear Bob"
            assert (files / "srv" / "page").read_text() == "thin"
            assert sorted(path.name for path in files.iterdir()) == ["etc", "home", "srv"]
