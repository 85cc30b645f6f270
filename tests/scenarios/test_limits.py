"""Out of descriptors or memory: exit code 1, the limit is named, and nothing is called corrupt."""

import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from cbtfs.check.check import check
from tests.make_points import MEMORY, add_point, new_repository

IMAGE: Final = random.Random(1).randbytes(93 * 8192)
COMMANDS: Final = {
    "check": ["check", "--read-data"],
    "restore": ["restore", "vm@latest", "disk", "-"],
    "ingest": ["ingest", "image", "--vm=new", "--disk=disk"],
    "repair": ["repair"],
}


@pytest.fixture(scope="module")
def original() -> Iterator[Path]:
    """A repository with one point in nearly a hundred packs."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        path = new_repository(Path(folder) / "original")
        add_point(path, {"disk": IMAGE}, pack_bytes=8192)
        assert len([*path.glob("packs/*/*")]) > 90
        (Path(folder) / "image").write_bytes(IMAGE)
        yield path


def run(
    original: Path, command: str, limit: Callable[[], None]
) -> "tuple[subprocess.CompletedProcess[bytes], Path]":
    """Run *command* on a copy of the repository, in a process that first calls *limit*."""
    path = original.with_name("repository")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, path)
    more = [str(original.with_name("image"))] if command == "ingest" else []
    done = subprocess.run(
        [sys.executable, "-m", "cbtfs", f"--repo={path}", *COMMANDS[command], *more],
        preexec_fn=limit,
        capture_output=True,
        check=False,
    )
    return done, path


def accept(
    done: "subprocess.CompletedProcess[bytes]", path: Path, limit: str, *, is_alone: bool = True
) -> None:
    """Assert that the command succeeded or named the limit in one line, without damage.

    *is_alone*: the line is the whole output. Without memory, the runtimes of Python and Rust add
    words of their own, with and without line ends.
    """
    words = done.stderr.decode()
    if done.returncode:
        assert done.returncode == 1, words
        lines = re.findall("cbtfs: .*", words)
        assert len(lines) == 1, words
        assert limit in lines[0]
        assert not is_alone or words == f"{lines[0]}\n"
    assert "corrupt" not in words
    assert "damaged" not in words
    assert not check(path, read_data=True).problems


@pytest.mark.parametrize("files", [6, 12])
@pytest.mark.parametrize("command", COMMANDS)
def test_too_few_descriptors(original: Path, command: str, files: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    done, path = run(original, command, limit)

    accept(done, path, f"this process may have {files} (RLIMIT_NOFILE")


def test_a_check_closes_packs_if_few_files_may_be_open(original: Path) -> None:
    """The repository has ninety packs, the process may open sixty files."""
    done, _ = run(original, "check", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60)))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["check", "restore"])
@pytest.mark.parametrize("mebibytes", [100, 300])
def test_too_little_memory(original: Path, command: str, mebibytes: int) -> None:
    size = mebibytes << 20

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    done, path = run(original, command, limit)

    accept(done, path, f"this process may have {size} bytes of address space", is_alone=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pack_beyond_the_limit_of_the_format_is_reported_and_not_loaded(
    original: Path, command: str
) -> None:
    """A sparse file of 20 GiB under the name of a pack, for a process that may have 1 GiB."""

    def limit() -> None:
        foreign = original.with_name("repository") / "packs" / "00" / ("0" * 32)
        foreign.parent.mkdir(exist_ok=True)
        with foreign.open("xb") as file:
            file.truncate(20 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done, _ = run(original, command, limit)

    words = done.stderr.decode() + (done.stdout.decode() if command != "restore" else "")
    assert done.returncode == (21 if command in ("check", "repair") else 0), words
    assert command == "restore" or f"{20 << 30} bytes exceed the maximum of" in words
