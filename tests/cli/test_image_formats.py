"""A qcow2, VMDK, VHD or VHDX is no raw disk: as a source, and as the name of a target."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.run_cbtfs import CommandResult, Run

SIZE = 4 << 20
MADE_BY_QEMU = {
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vmdk -o subformat=streamOptimized": "vmdk",
    "vmdk -o subformat=monolithicFlat": "vmdk",
    "vpc": "vpc",
    "vpc -o subformat=fixed": "vpc",
    "vhdx": "vhdx",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(SIZE // 2) + bytes(SIZE // 2))
    return path


def _convert(raw: Path, target: Path, options: str) -> None:
    command = ["qemu-img", "convert", "-f", "raw", "-O", *options.split(), str(raw), str(target)]
    subprocess.run(command, check=True)


def _ingest(run: Run, *words: str | Path) -> CommandResult:
    return run("ingest", "image", "--vm=web", "--disk=root", *words)


@pytest.mark.parametrize("options", MADE_BY_QEMU)
def test_a_first_image_that_is_not_raw_is_refused(
    run: Run, raw: Path, tmp_path: Path, options: str
) -> None:
    image = tmp_path / "my image"
    _convert(raw, image, options)

    done = _ingest(run, image)

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert f"--format={MADE_BY_QEMU[options]} " in done.err
    assert f"'{image}'" in done.err
    assert run("list", "--json").document == {"points": []}
    assert _ingest(run, "--raw", image).code == 0


def test_the_command_of_the_error_serves_the_content(run: Run, raw: Path, tmp_path: Path) -> None:
    image, pid = tmp_path / "disk.qcow2", tmp_path / "pid"
    _convert(raw, image, "qcow2")
    error = _ingest(run, image).err.replace("/run/root.sock", str(tmp_path / "socket"))
    match = re.search(r"with '(qemu-nbd .*)' and capture '(nbd\S+)'", error)
    assert match is not None
    subprocess.run([*shlex.split(match[1]), f"--pid-file={pid}"], check=True)
    try:
        done = _ingest(run, match[2])
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)

    assert done.code == 0, done.err
    run("restore", "web", "root", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize(
    ("at", "magic"),
    [(0, b"QFI\xfb"), (0, b"KDMV"), (0, b"vhdxfile"), (0, b"conectix"), (SIZE - 512, b"conectix")],
)
def test_a_guest_that_writes_a_magic_number_does_not_stop_its_backups(
    run: Run, raw: Path, tmp_path: Path, at: int, magic: bytes
) -> None:
    assert _ingest(run, raw).code == 0
    with raw.open("r+b") as file:
        file.seek(at)
        file.write(magic)

    done = _ingest(run, raw)
    quiet = _ingest(run, "-q", "--raw", raw)

    assert done.code == quiet.code == 0
    assert "looks like a" in done.err
    assert quiet.err == ""
    run("restore", "web", "root", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == raw.read_bytes()


def test_another_disk_of_the_vm_has_a_first_image_of_its_own(
    run: Run, raw: Path, tmp_path: Path
) -> None:
    _convert(raw, tmp_path / "b", "qcow2")
    assert _ingest(run, raw).code == 0

    both = ("--disk", f"root={raw}", "--disk", f"data={tmp_path / 'b'}")
    done = run("ingest", "image", "--vm=web", *both)

    assert done.code == 2
    assert "disk data: " in done.err


@pytest.mark.parametrize("content", [b"", b"QFI", b"conectix"[:7], b"\0" * 511 + b"QFI\xfb"])
def test_short_and_similar_files_are_raw(run: Run, tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)

    assert _ingest(run, image).code == 0


def test_a_redirected_file_is_examined_too(run: Run, raw: Path, tmp_path: Path) -> None:
    _convert(raw, tmp_path / "disk.qcow2", "qcow2")
    before = os.dup(0)
    try:
        with (tmp_path / "disk.qcow2").open("rb") as file:
            os.dup2(file.fileno(), 0)
        done = _ingest(run, "-")
    finally:
        os.dup2(before, 0)
        os.close(before)

    assert done.code == 2
    assert f"{tmp_path / 'disk.qcow2'}'" in done.err


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x.qcow2", "--to qcow2"),
        ("x.VMDK", "--to vmdk"),
        ("x.vhd", "qemu-img convert -f raw -O vpc'"),
        ("x.vhdx", "--to vhdx"),
    ],
)
def test_a_target_that_is_named_like_another_format_is_warned_of(
    run: Run, raw: Path, tmp_path: Path, name: str, advice: str
) -> None:
    _ingest(run, raw)

    done = run("restore", "web", "root", tmp_path / name)

    assert done.code == 0
    assert "raw bytes are written" in done.err
    assert advice in done.err
    assert (tmp_path / name).read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("name", ["x.raw", "x.img", "x", "web1-flat.vmdk"])
def test_a_target_of_raw_bytes_is_not(run: Run, raw: Path, tmp_path: Path, name: str) -> None:
    _ingest(run, raw)

    assert run("restore", "web", "root", tmp_path / name).err == ""
