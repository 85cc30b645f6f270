"""Damaged files of a repository end a command with one line and the exit code of damage."""

import os
import shutil
from pathlib import Path

import pytest

from cbtfs.core.sealed import seal, unseal
from tests.cli.run_cbtfs import Run
from tests.make_points import add_point

READING = [("list",), ("show", "vm@latest"), ("stats",), ("extents", "vm@latest", "disk")]
ALL = [*READING, ("check",), ("prune",), ("repair",), ("forget", "vm@latest")]


@pytest.fixture
def filled(repository: Path) -> Path:
    add_point(repository, {"disk": b"content" * 3000})
    return repository


@pytest.mark.parametrize("command", ALL, ids=lambda words: str(words[0]))
@pytest.mark.parametrize("folder", ["points", "packs"])
@pytest.mark.parametrize("kind", ["missing", "file", "fifo"])
def test_a_folder_that_is_missing_or_none(
    filled: Path, run: Run, command: tuple[str, ...], folder: str, kind: str
) -> None:
    shutil.rmtree(filled / folder)
    if kind == "file":
        (filled / folder).touch()
    elif kind == "fifo":
        os.mkfifo(filled / folder)

    done = run(*command)

    assert done.code == 21
    assert done.err.count("\n") == 1
    assert f"{folder}" in done.err
    assert "is its file system mounted?" in done.err


@pytest.mark.parametrize("command", ALL, ids=lambda words: str(words[0]))
def test_a_fifo_instead_of_the_catalog_does_not_block(
    filled: Path, run: Run, command: tuple[str, ...]
) -> None:
    """Not by the verifier either, which a lock that was left behind demands."""
    (filled / "catalog" / "data.mdb").unlink()
    os.mkfifo(filled / "catalog" / "data.mdb")
    (filled / "locks" / "writer").write_text("a writer that died")

    done = run(*command)

    assert done.code == 21
    assert done.err.count("\n") == 1


def test_a_manifest_of_an_empty_disk_with_content_is_damaged(filled: Path, run: Run) -> None:
    """A seal proves nothing: everybody can make one."""
    (path,) = (file for file in (filled / "points").iterdir() if len(file.name) == 32)
    document = unseal(path.read_bytes())
    document["disks"][0]["size"] = 0
    path.unlink()
    path.write_bytes(seal({k: v for k, v in document.items() if k != "sha256"}))

    for command in (("repair",), ("check",), ("prune",)):
        done = run(*command)

        assert done.code in (20, 21), done.err
        assert "Traceback" not in done.err
