"""`restore --to FORMAT`: the image equals the disk, and no mount or partial file stays."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import writing
from tests.cli.fixtures import folder, run
from tests.cli.run_cbtfs import Run, runner
from tests.make_points import BLOCK, SIGNALS, commit_point, new_repository
from tests.restore.test_several_disks import damage

__all__ = ["folder", "run"]  # fixtures
pytestmark = pytest.mark.mounts

FORMATS: Final = ("qcow2", "vmdk", "vhdx")
ODD: Final = b"".join(bytes([n % 3 and n]) * BLOCK for n in range(71))[:-777]
DISKS: Final = {
    "odd": ODD,
    "byte": b"\1",
    "zeros": bytes(8 << 20),
    "empty": b"",
}
LARGE: Final = 3 * (1 << 40) + 512


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = new_repository(tmp_path / "repository")
    with writing(path) as opened:
        commit_point(opened, DISKS)
    return path


def is_equal(raw: Path, image: Path) -> bool:
    """Whether qemu-img finds the same bytes. It rounds sizes up to whole sectors."""
    kind = image.suffix.removeprefix(".")
    command = ["qemu-img", "compare", "-f", "raw", "-F", kind, str(raw), str(image)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fake_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program qemu-img first in PATH. Its arguments 7 and 8 are source and target."""
    program = tmp_path / "bin" / "qemu-img"
    program.parent.mkdir(mode=0o755)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("kind", FORMATS)
def test_each_disk_of_a_point_is_an_image_of_its_bytes(
    run: Run, folder: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"

    done = run("restore", "vm", "--all", out, "--to", kind, "--jobs=2", "--json")

    made = {item["disk"]: Path(item["target"]) for item in done.document["restored"]}
    refused = [(item["disk"], item["exit"]) for item in done.document["failed"]]
    assert refused == ([("empty", 2)] if kind == "vmdk" else [])
    assert {item["format"] for item in done.document["restored"]} == {kind}
    assert made.keys() | dict(refused).keys() == DISKS.keys()
    for label, path in made.items():
        raw = tmp_path / "raw"
        raw.write_bytes(DISKS[label])
        assert path.name == f"{label}.{kind}"
        assert is_equal(raw, path)
        assert path.stat().st_mode & 0o777 == 0o600
    assert made["zeros"].stat().st_blocks * 512 < len(DISKS["zeros"]) // 4
    assert {path for path in out.rglob("*") if path.is_file()} == {*made.values()}
    assert os.listdir(folder) == []


def test_a_disk_above_2_tib_is_sparse_in_each_format(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """qemu-img compare takes minutes for VMDK and VHDX; qemu-io reads where the data is."""
    raw = tmp_path / "large.raw"
    extents = {0: b"\1", 5 * (1 << 38) + BLOCK: b"\2", LARGE - 512: b"\3"}
    with raw.open("wb") as file:
        file.truncate(LARGE)
        for at, byte in extents.items():
            os.pwrite(file.fileno(), byte * 512, at)
    run = runner(tmp_path / "large", capsys)
    assert run("init").code == 0
    assert run("ingest", "image", "--vm=big", "--disk=root", raw).code == 0

    for kind in FORMATS:
        image = tmp_path / f"large.{kind}"
        assert run("restore", "big", "root", image, "--to", kind).code == 0
        assert image.stat().st_blocks * 512 < 128 << 20
        if kind == "qcow2":
            assert is_equal(raw, image)
            continue
        reads = [f"--cmd=read -P {byte[0]} {at} 512" for at, byte in extents.items()]
        zeros = [f"--cmd=read -P 0 {at} 1M" for at in (512 << 10, 1 << 41)]
        done = subprocess.run(
            ["qemu-io", "-r", "-f", kind, *reads, *zeros, image],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "failed" in done.stdout) == (0, False)


def test_a_damaged_chunk_is_named_and_leaves_no_file(
    run: Run, repository: Path, folder: Path, tmp_path: Path
) -> None:
    damage(repository, ODD[BLOCK : 2 * BLOCK])
    before = sorted(tmp_path.iterdir())

    done = run("restore", "vm", "odd", tmp_path / "x.qcow2", "--to=qcow2")

    assert done.code == 21
    assert re.search(
        r"^cbtfs: disk odd of point [0-9a-f]{32}: bytes 4096 to 8192: chunk ", done.err, re.M
    )
    assert sorted(tmp_path.iterdir()) == before
    assert os.listdir(folder) == []


def test_another_failure_of_qemu_img_has_its_message(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu_img(tmp_path, monkeypatch, 'echo data > "$8"; echo "no space left" >&2; exit 1')

    done = run("restore", "vm", "odd", tmp_path / "x.qcow2", "--to=qcow2")

    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.endswith("x.qcow2: qemu-img failed: no space left\n")
    assert not list(tmp_path.glob("*x.qcow2")) + list(tmp_path.glob(".cbtfs-*"))


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("-", [], "--to and TARGET -"),
        ("nbd://host/x", [], "is an NBD export"),
        ("nbd+unix:///x?socket=s", [], "is an NBD export"),
        ("/dev/loop-control", [], "already exists"),
        ("old", [], "already exists"),
        ("dangling", [], "already exists"),
        ("new", ["--force"], "--to and --force"),
        ("new", ["--keep-going"], "--to and --keep-going"),
        ("new", ["--in-place"], "--in-place and --to"),
        ("repository/new", [], "inside the repository"),
    ],
)
def test_a_target_that_is_no_new_file_is_refused(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    more: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old").write_bytes(b"old")
    Path("dangling").symlink_to("nowhere")

    done = run("restore", "vm", "odd", target, "--to=qcow2", *more)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert Path("old").read_bytes() == b"old"
    assert not Path("nowhere").exists()


def test_a_missing_qemu_img_is_named_with_its_package(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    done = run("restore", "vm", "odd", tmp_path / "x.qcow2", "--to=qcow2")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "install the package qemu-utils" in done.err


def test_a_small_file_stays_as_it_is_and_keeps_its_name(
    run: Run, repository: Path, folder: Path, tmp_path: Path
) -> None:
    def with_small_file(manifest: Manifest) -> Manifest:
        disk, file = manifest.disks
        return replace(manifest, disks=(disk, replace(file, kind="file")))

    with writing(repository) as opened:
        images = {"root": ODD, "root.vmdk": b"text"}
        commit_point(opened, images, vm="vm2", change=with_small_file)

    done = run("restore", "vm2", "--all", tmp_path / "out", "--to=vmdk")

    assert done.code == 0
    made = {path.name: path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "raw").write_bytes(ODD)
    assert made.keys() == {"root.raw.vmdk", "root.vmdk"}
    assert made["root.vmdk"].read_bytes() == b"text"
    assert is_equal(tmp_path / "raw", made["root.raw.vmdk"])
    assert run("restore", "vm2", "root.vmdk", tmp_path / "x", "--to=vmdk").code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_removes_the_mount_and_the_partial_file(
    repository: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """The kernel ends mount and qemu-img when the command is killed; a partial file stays then."""
    block = 'echo $$ > "$8"; exec 3< "$7"; echo > "$8.started"; exec tail -f /dev/null'
    fake_qemu_img(tmp_path, monkeypatch, block)
    target = tmp_path / "x.qcow2"
    arguments = ["restore", "vm", "odd", str(target), "--to=qcow2"]
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not list(tmp_path.glob(".cbtfs-*/*.started")):
            pass
        (made,) = tmp_path.glob(".cbtfs-*/x.qcow2")
        program = int(made.read_text())
        assert str(folder) in Path("/proc/mounts").read_text()
        child.send_signal(number)
        child.wait()

    assert child.returncode == {signal.SIGKILL: -9}.get(number, 128 + number)
    assert not target.exists()
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob(".cbtfs-*"))
        assert os.listdir(folder) == []
        assert not Path(f"/proc/{program}").exists()
    while str(folder) in Path("/proc/mounts").read_text():
        pass
