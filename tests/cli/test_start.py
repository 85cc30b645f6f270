"""Standard streams are open before the program starts, and its end is quick."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.make_points import add_point, new_repository, read_point
from tests.planted import console_script


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return console_script(tmp_path)


def closed(*descriptors: int) -> list[str]:
    """The start of a command that runs the rest of it with *descriptors* closed."""
    closing = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in descriptors)
    return ["sh", "-c", f'exec "$@" {closing}', "sh"]


@pytest.mark.parametrize("descriptors", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_command_works_with_closed_standard_streams(
    program: Path, tmp_path: Path, descriptors: tuple[int, ...]
) -> None:
    repository = new_repository(tmp_path / "repository")
    (tmp_path / "disk.raw").write_bytes(b"content" * 1000)
    command = ["ingest", "image", "--vm=v", "--disk=d", str(tmp_path / "disk.raw")]

    done = subprocess.run(
        [*closed(*descriptors), program, f"--repo={repository}", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    restored = subprocess.run(
        [program, f"--repo={repository}", "restore", "v@latest", "d", "-"],
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0
    assert restored.stdout == b"content" * 1000


def test_an_error_keeps_its_exit_code_and_a_file_is_not_written_to(
    program: Path, tmp_path: Path
) -> None:
    """Without the null device, the words for standard error would go into some file."""
    repository = new_repository(tmp_path / "repository")
    manifest = add_point(repository, {"disk": b"content" * 1000})

    done = subprocess.run(
        [*closed(0, 1, 2), program, f"--repo={repository}", "show", "nothing"], check=False
    )

    assert done.returncode == 13
    assert read_point(repository, manifest) == {"disk": b"content" * 1000}


def test_mount_cbtfs_opens_them_too(tmp_path: Path) -> None:
    helper = console_script(tmp_path, "mount.cbtfs")

    done = subprocess.run([*closed(0, 1, 2), helper, "/nowhere", "/nowhere"], check=False)

    assert done.returncode == 32


def test_a_descriptor_that_is_open_stays_as_it_is(program: Path, tmp_path: Path) -> None:
    heard, said = os.pipe()
    done = subprocess.run([program, "--version"], stdout=said, stderr=said, check=False)
    os.close(said)

    assert done.returncode == 0
    assert os.read(heard, 100).startswith(b"cbtfs ")
    os.close(heard)


def test_objects_are_not_searched_for_cycles_at_the_end(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repository")
    script = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > len(gc.get_objects())))\n"
        "from cbtfs.cli.start import run\n"
        "run()\n"
    )
    command = [sys.executable, "-c", script, f"--repo={repository}", "list", "--json"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.endswith("True\n")
