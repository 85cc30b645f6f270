"""A user's repository still belongs to the user after root has changed it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.run_cbtfs import CommandResult
from tests.make_points import MEMORY, new_repository

USER: Final = 12345
"""A user without name, home directory and groups."""
_PROGRAM: Final = f"""
import os, pkgutil, sys
from importlib import import_module
import encodings.idna
import cbtfs
for found in pkgutil.walk_packages(cbtfs.__path__, "cbtfs."):
    if not found.name.endswith("__main__"):
        import_module(found.name)
from cbtfs.cli import main
os.setgroups([])
os.setgid({USER})
os.setuid({USER})
os.environ.clear()
sys.exit(main.main(sys.argv[1:]))
"""
"""A command of the user, who may not enter the checkout, so all modules are loaded before."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a directory that every user may enter."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else "/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def repository(folder: Path) -> Path:
    """Return a repository of the user."""
    path = new_repository(folder / "repository")
    for entry in (path, *path.rglob("*")):
        os.chown(entry, USER, USER)
    return path


def as_user(*arguments: str | Path) -> CommandResult:
    """Run a command as the user."""
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return CommandResult(done.returncode, done.stdout, done.stderr)


def owners(path: Path) -> set[tuple[int, int]]:
    return {(p.stat().st_uid, p.stat().st_gid) for p in (path, *path.rglob("*"))}


def as_root(repository: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "cbtfs", f"--repo={repository}", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def test_files_that_root_writes_belong_to_the_owner(repository: Path, folder: Path) -> None:
    """Check every file and directory after each command that creates some."""
    image = folder / "image"
    image.write_bytes(os.urandom(100_000))
    image.chmod(0o644)
    ingest = ("ingest", "image", "--vm=vm", "--disk=disk", image)

    (repository / "locks" / "writer").unlink(missing_ok=True)
    as_root(repository, *ingest)
    assert owners(repository) == {(USER, USER)}
    as_root(repository, "tag", "vm@latest", "a-tag")
    as_root(repository, "repair")
    as_root(repository, *ingest)
    as_root(repository, "check", "--read-data")
    assert owners(repository) == {(USER, USER)}

    assert as_user("--repo", repository, "list").code == 0
    done = as_user("--repo", repository, *ingest)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("points", "list"),
        ("packs", "check"),
        ("catalog/data.mdb", "list"),
        ("repository.json", "list"),
        ("locks/writer", "prune"),
    ],
)
def test_a_refused_path_is_reported_with_its_owner(
    repository: Path, place: str, command: str
) -> None:
    (repository / "locks" / "writer").touch()
    path = repository / place
    os.chown(path, 0, 0)
    path.chmod(0o700 if path.is_dir() else 0o600)

    done = as_user("--repo", repository, command)

    assert done.code == 31, done.err
    assert done.err.count("\n") == 1
    assert str(path) in done.err
    assert "belongs to root (uid 0), this process is uid 12345" in done.err


def test_a_mount_of_a_user_without_home_and_name_asks_for_a_log_file(
    repository: Path, folder: Path
) -> None:
    (folder / "mnt").mkdir()

    done = as_user("--repo", repository, "mount", folder / "mnt")

    assert done.code == 2
    assert (
        done.err == "cbtfs: no default log file: this user has no home directory; use --log-file\n"
    )
