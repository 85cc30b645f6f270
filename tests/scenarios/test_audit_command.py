"""The option --audit, its documents, and a simulator with missed changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.cli.options.arguments import AUDIT, sampling_of
from cbtfs.core.audit import Sampling
from cbtfs.errors import UsageError
from tests.make_points import BLOCK, new_repository
from tests.scenarios.vsphere.site import FIRST, MIB, VM, Lab, new_lab, one_vm
from tools.vsim import DiskEntry, Simulator

BLOCKS = 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def call(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Return exit code, document and messages of a command."""
    code = main(["--repo", str(path), *arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


class Image:
    """A raw file that is ingested with a change list of the test."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "disk.raw"
        self.list = folder / "changed.json"
        self.file.write_bytes(
            b"".join(n.to_bytes(4, "big") * (BLOCK // 4) for n in range(1, BLOCKS + 1))
        )
        self.list.write_text("[]")

    def write(self, block: int, text: str) -> None:
        with self.file.open("r+b") as file:
            file.seek(block * BLOCK)
            file.write(text.encode())

    def arguments(self, *more: str) -> list[str]:
        options = ["--vm", "web", "--disk", "root", "--changed", str(self.list)]
        return ["ingest", "image", *options, *more, str(self.file)]


@pytest.mark.parametrize("text", ["0", "0%", "0.0"])
def test_zero_is_no_audit(text: str) -> None:
    assert sampling_of(text) is None


@pytest.mark.parametrize(("text", "share"), [(AUDIT, 0.001), ("100%", 1.0), ("2.5%", 0.025)])
def test_a_share_is_in_percent(text: str, share: float) -> None:
    assert sampling_of(text) == Sampling(share)


@pytest.mark.parametrize("text", ["", "%", "0.1", "1", "101%", "-1%", "nan%", "inf%", "all"])
def test_an_invalid_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--audit"):
        sampling_of(text)


def test_a_list_in_a_file_is_audited_by_default(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image(tmp_path)
    call(path, capsys, *image.arguments())

    _, audited, _ = call(path, capsys, *image.arguments())
    _, plain, _ = call(path, capsys, *image.arguments("--audit", "0"))
    _, shown, _ = call(path, capsys, "show", "web@latest")

    (disk,) = audited["disks"]
    assert (disk["kind"], disk["read_bytes"]) == ("incremental", 0)
    assert disk["audit"]["of"] == BLOCKS
    assert disk["audit"]["blocks"] == 64
    assert disk["audit"]["mismatches"] == 0
    assert plain["disks"][0]["audit"] is None
    assert shown["disks"][0]["audit"] is None


def test_a_list_that_lacks_changes_is_detected_and_reported(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image(tmp_path)
    call(path, capsys, *image.arguments())
    image.write(200, "not told")
    _, wrong, _ = call(path, capsys, *image.arguments("--audit", "0"))

    code, refused, words = call(
        path, capsys, *image.arguments("--audit", "100%", "--incremental-only")
    )
    _, document, _ = call(path, capsys, *image.arguments("--audit", "100%"))
    _, shown, _ = call(path, capsys, "show", wrong["point"])
    _, listed, _ = call(path, capsys, "list", "web")

    assert (code, refused["error"]["code"]) == (33, 33)
    assert "change tracking missed 1 blocks" in words
    assert document["reason"] == "change tracking missed 1 blocks"
    assert document["disks"][0]["audit"]["missed"] == 1
    assert [point["state"] for point in listed["points"]] == [[], ["suspect"], []]
    assert "missed 1 blocks" in shown["suspect"]
    assert shown["disks"][0]["suspect"] == shown["suspect"]


def test_warnings_name_the_vm_the_result_of_the_full_scan_and_the_fix(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    image = Image(tmp_path)
    call(path, capsys, *image.arguments())
    call(path, capsys, *image.arguments())
    for block in range(100, 250):
        image.write(block, "not told")
    call(path, capsys, *image.arguments("--audit", "0.1%"))

    lines = [r.getMessage() for r in caplog.records]
    assert all(line.startswith("VM web, disk root: change tracking missed") for line in lines)
    assert "in the sample of the audit" in lines[0]
    assert "missed 150 blocks, according to the full scan; 1 of its points" in lines[1]
    assert all("check what writes the change list" in line for line in lines)


def test_a_disk_that_may_change_is_not_audited(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image(tmp_path)
    call(path, capsys, *image.arguments())
    image.write(200, "written after the list was made")

    _, taken, _ = call(path, capsys, *image.arguments("--allow-changing", "--audit", "100%"))

    assert taken["kind"] == "incremental"
    assert taken["disks"][0]["audit"] is None


def test_messages_mention_audit_and_suspect_points(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image(tmp_path)
    call(path, capsys, *image.arguments())
    _, doubted, _ = call(path, capsys, *image.arguments())
    image.write(200, "not told")
    call(path, capsys, *image.arguments("--full"))

    main(["--repo", str(path), "show", doubted["point"]])

    words = capsys.readouterr().out
    assert "audit    64 of 300 unchanged blocks compared (sample): 0 differ" in words
    assert "suspect  disk root: change tracking missed 1 blocks" in words


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A site whose change tracking omits half of the changed blocks."""
    with Simulator(one_vm(DiskEntry(size=8 * MIB), DiskEntry(size=MIB))) as sim:
        made = new_lab(sim, tmp_path)
        made.write(0, b"before--" * MIB)  # all of it: no block is in an area that a full skips
        yield made


def test_a_vm_with_missed_changes(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = lab.sim
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", sim.user.password)
    server = ["--server", f"{sim.host}:{sim.port}", "--user", sim.user.name]
    command = ["ingest", "vsphere", *server, "--ca-file", str(sim.certificate.certificate), VM]

    def run(*more: str) -> tuple[int, Any]:
        code, document, _ = call(lab.repository, capsys, *command, *more)
        return code, document

    def write_all(text: bytes) -> None:
        for block in range(0, 120, 3):
            lab.write(block * 65536, text)

    assert run()[0] == 0
    sim.knobs.change("cbt", silent_misses=0.5, seed=3)
    write_all(b"first")
    _, wrong = run("--audit", "0")
    write_all(b"second")
    forbidden, refused = run("--audit", "100%", "--incremental-only")
    code, audited = run("--audit", "100%")

    assert wrong["points"][0]["kind"] == "incremental"
    assert forbidden == 33
    assert refused["failed"][0]["exit"] == 33
    assert code == 0
    first, second = audited["points"][0]["disks"]
    assert (first["kind"], second["kind"]) == ("full", "incremental")
    assert first["reason"] == f"change tracking missed {first['audit']['missed']} blocks"
    assert second["audit"]["mismatches"] == 0
    listed = call(lab.repository, capsys, "list", VM)[1]["points"]
    moref = {}
    assert [point["state"] for point in listed] == [[], ["suspect"], []]
    for point in listed:
        shown = call(lab.repository, capsys, "show", point["id"])[1]
        moref[point["id"]] = shown["metadata"]["snapshot"]["moref"]
    right = [_is_right(lab, point, snapshot) for point, snapshot in moref.items()]
    assert right == [True, False, True]


def test_a_miss_found_after_a_full_is_recorded(
    lab: Lab,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sim = lab.sim
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", sim.user.password)
    server = ["--server", f"{sim.host}:{sim.port}", "--user", sim.user.name]
    command = ["ingest", "vsphere", *server, "--ca-file", str(sim.certificate.certificate), VM]

    def run(*more: str) -> tuple[int, Any, str]:
        return call(lab.repository, capsys, *command, *more)

    assert run()[0] == 0
    sim.knobs.change("cbt", silent_misses=0.5, seed=3)
    for block in range(0, 120, 3):
        lab.write(block * 65536, b"not all of these are listed")
    forbidden = ["--incremental-only", "--audit"]
    codes = [run(*forbidden, share)[0] for share in ("100%", "0", "0")]
    code, taken, _ = run("--audit", "0")
    again = run(*forbidden, "0")

    warning = caplog.records[0].getMessage()
    assert warning.startswith("VM web1, disk Hard disk 1: change tracking missed")
    assert "run 'cbtfs cbt reset' for web1" in warning
    assert codes == [33, 33, 33]
    assert code == 0
    (point,) = taken["points"]
    assert [disk["kind"] for disk in point["disks"]] == ["full", "incremental"]
    assert again[0] == 0
    shown = call(lab.repository, capsys, "show", point["point"])[1]
    assert _is_right(lab, point["point"], shown["metadata"]["snapshot"]["moref"])


def _is_right(lab: Lab, point: str, snapshot: str) -> bool:
    """Return whether the first disk of the point equals the snapshot disk."""
    restored = lab.repository.parent / f"{point}.raw"
    restore = ["restore", point, "Hard disk 1", str(restored)]
    assert main(["--repo", str(lab.repository), *restore]) == 0
    truth = lab.sim.state / "snapshots" / snapshot / f"{FIRST}.raw"
    return restored.read_bytes() == truth.read_bytes()
