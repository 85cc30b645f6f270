"""Standard input and standard output instead of a file."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.make_points import BLOCK, add_point, new_repository
from tests.mount.mount_process import corrupt

CONTENT = os.urandom(3 * BLOCK) + bytes(600 * BLOCK) + os.urandom(2 * BLOCK + 7) + bytes(BLOCK)
RESTORE = ("restore", "vm@latest", "disk", "-")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def point(repository: Path) -> None:
    add_point(repository, {"disk": CONTENT})


def _command(repository: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "cbtfs", f"--repo={repository}", *arguments]


@pytest.mark.usefixtures("point")
def test_a_pipe_gets_exactly_the_disk_with_all_zeros(repository: Path) -> None:
    done = subprocess.run(_command(repository, *RESTORE), check=False, capture_output=True)

    assert done.returncode == 0
    assert done.stdout == CONTENT
    point, words = done.stderr.splitlines()
    assert point.startswith(b"cbtfs: vm@")
    assert words.startswith(b"cbtfs: %d bytes" % len(CONTENT))


@pytest.mark.usefixtures("point")
def test_a_terminal_is_refused(repository: Path) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb"), open(theirs, "wb") as terminal:
        done = subprocess.run(
            _command(repository, *RESTORE), check=False, stdout=terminal, stderr=subprocess.PIPE
        )

    assert done.returncode == 2
    assert b"is a terminal" in done.stderr


@pytest.mark.usefixtures("point")
def test_a_document_cannot_be_written_to_the_same_output_as_the_disk(repository: Path) -> None:
    command = _command(repository, *RESTORE, "--json")
    done = subprocess.run(command, check=False, capture_output=True)

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == 2


@pytest.mark.usefixtures("point")
def test_a_reader_that_closes_the_pipe_causes_an_error(repository: Path) -> None:
    with subprocess.Popen(
        _command(repository, *RESTORE), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        words = process.stderr.read()

    assert process.returncode == 1
    assert words == b"cbtfs: cannot write standard output: Broken pipe; it is incomplete\n"


@pytest.mark.usefixtures("point")
def test_lost_blocks_are_zeros_and_cause_an_error(repository: Path) -> None:
    corrupt(repository, CONTENT[BLOCK : 2 * BLOCK])
    command = _command(repository, *RESTORE, "--keep-going")
    done = subprocess.run(command, check=False, capture_output=True)

    assert done.returncode == 21
    assert done.stdout == CONTENT[:BLOCK] + bytes(BLOCK) + CONTENT[2 * BLOCK :]
    assert b"lost: %d %d" % (BLOCK, BLOCK) in done.stderr


def test_a_redirected_file_is_a_source(repository: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(CONTENT)
    command = _command(repository, "ingest", "image", "--vm=vm", "--disk=disk", "-")
    with image.open("rb") as file:
        subprocess.run(command, check=True, stdin=file, capture_output=True)

    done = subprocess.run(_command(repository, *RESTORE), check=True, capture_output=True)
    assert done.stdout == CONTENT


def test_a_pipe_is_refused_as_a_source_with_the_reason(repository: Path) -> None:
    command = _command(repository, "ingest", "image", "--vm=vm", "--disk=disk", "-")
    done = subprocess.run(command, check=False, input=CONTENT, capture_output=True)

    assert done.returncode == 2
    assert b"whose size is unknown" in done.stderr
