"""A writer that waited for the lock uses the settings at the end of the wait."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.settings import encode_settings
from cbtfs.store.repository import take_lock
from cbtfs.store.settings import SETTINGS, load_settings
from tests.make_points import add_point, new_repository

WRITERS: Final = {
    "ingest": ("ingest", "image", "--vm=vm", "--disk=disk", "{image}"),
    "forget": ("forget", "{point}"),
    "tag": ("tag", "vm", "a"),
    "prune": ("prune",),
    "check": ("check", "--read-data"),
    "repair": ("repair",),
    "markers": ("repair", "--create-markers"),
}


def contents(path: Path) -> dict[str, bytes]:
    """Return the content of all files of the repository except the lock files."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent.name != "locks" and file.name != "lock.mdb"
    }


def start(path: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cbtfs", f"--repo={path}", *arguments, "--lock-wait=300"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def skip_to_waiting(process: "subprocess.Popen[str]") -> None:
    """Return once *process* is waiting for the lock."""
    assert process.stderr is not None
    assert any("waiting for process" in line for line in process.stderr), process.args


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def test_a_required_feature_added_while_a_writer_waits_is_checked(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(b"new" * 4096)
    add_point(path, {"disk": b"old" * 4096})
    point = add_point(path, {"disk": b"older" * 4096}).point
    lock = take_lock(path, 0.0)
    processes = {
        name: start(path, *(a.format(image=tmp_path / "image", point=point) for a in arguments))
        for name, arguments in WRITERS.items()
    }
    try:
        for process in processes.values():
            skip_to_waiting(process)
        settings = replace(load_settings(path), required=("not-invented-yet",))
        (path / SETTINGS).write_bytes(encode_settings(settings))
        before = contents(path)
        lock.release(is_clean=True)
        for name, process in processes.items():
            assert process.stderr is not None
            with process.stderr:
                words = process.stderr.read()
            assert process.wait() == 12, (name, words)
            assert "not-invented-yet" in words, name
    finally:
        for process in processes.values():
            process.kill()
            process.wait()

    assert contents(path) == before


def test_a_writer_that_waited_uses_the_block_size_of_that_moment(
    path: Path, tmp_path: Path
) -> None:
    """The defaults of a repository are read again too, not only its features."""
    (tmp_path / "image").write_bytes(b"".join(n.to_bytes(4) * 2 for n in range(1 << 15)))
    lock = take_lock(path, 0.0)
    process = start(path, "ingest", "image", "--vm=vm", "--disk=disk", str(tmp_path / "image"))
    skip_to_waiting(process)
    settings = replace(load_settings(path), block_size=1 << 16)
    (path / SETTINGS).write_bytes(encode_settings(settings))
    lock.release(is_clean=True)

    _, words = process.communicate()

    assert process.returncode == 0, words
    (manifest,) = (f for f in (path / "points").iterdir() if "." not in f.name)
    assert b'"block_size":65536' in manifest.read_bytes().replace(b" ", b"")
