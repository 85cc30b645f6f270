"""`cbtfs files extract` of a large file: progress, and what an interrupt leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.make_points import SIGNALS, add_point, new_repository

MIB = 1 << 20
SIZE = 96 * MIB
SECONDS = 60
ATTEMPTS = 10
"""An extraction can end before the signal arrives."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a point of a guest that has one large file."""
    folder = tmp_path_factory.mktemp("large")
    content, image = folder / "content", folder / "image"
    content.mkdir()
    with (content / "large").open("wb") as file:
        for number in range(SIZE // MIB):
            file.write(b"%9d\n" % number * (MIB // 10) + b"......")
    options = ("-t", "ext4", "-O", "^has_journal", "-d", str(content))
    subprocess.run(["mke2fs", "-q", *options, image, "120M"], check=True)
    path = new_repository(folder / "repository", 1 << 16)
    add_point(path, {"root": image.read_bytes()}, vm="web01")
    return path


def started(repository: Path, target: Path, *more: str) -> "subprocess.Popen[str]":
    """Start an extraction of the large file."""
    words = ("files", "extract", "web01:/large", str(target))
    return subprocess.Popen(
        [*SIGNALS, sys.executable, "-m", "cbtfs", "--repo", repository, *more, *words],
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_interrupted_extraction_leaves_no_file(repository: Path, tmp_path: Path) -> None:
    for number in range(ATTEMPTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with started(repository, folder / "copy") as process:
            deadline = time.monotonic() + SECONDS
            while not (names := os.listdir(folder)):
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=SECONDS)
        if process.returncode:
            break

    assert names == [name for name in names if name.startswith(".cbtfs-")]
    assert process.returncode == 130, errors
    assert list(folder.iterdir()) == []


def test_progress_has_the_bytes_and_the_time_left(repository: Path, tmp_path: Path) -> None:
    with started(repository, tmp_path / "copy", "--progress=json") as process:
        _, errors = process.communicate(timeout=SECONDS)
    lines = [line for line in errors.splitlines() if line.startswith("{")]
    documents = [json.loads(line)["progress"] for line in lines]

    assert process.returncode == 0, errors
    assert documents[0].keys() >= {"seconds_left"}
    assert {document["total"] for document in documents} == {SIZE}
    assert documents[-1]["done"] == SIZE
    assert (tmp_path / "copy").stat().st_size == SIZE
