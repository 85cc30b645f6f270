"""Restores in place onto NBD servers with limits, and servers whose writes fail."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.errors import SourceUnavailable, TargetFailed, UsageError
from cbtfs.restore.in_place_export import InPlaceExport
from tests.make_points import BLOCK, add_point, new_repository
from tests.restore.test_in_place import IMAGE, SIZE, restore

_WHOLE = 128 * BLOCK


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_repository(tmp_path_factory.mktemp("r") / "repository")


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return add_point(repository, {"d": IMAGE})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\xee" * _WHOLE)
    return path


@contextmanager
def nbdkit(file: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Serve *file* writable by nbdkit with *options*; return its URI and process.

    The socket listens before the server starts, so that no client comes too early.
    """
    path = file.with_suffix(".sock")
    path.unlink(missing_ok=True)
    filters = [option for option in options if option.startswith("--")]
    settings = [option for option in options if not option.startswith("--")]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec nbdkit "$@"'
        command = ["bash", "-c", script, str(fd), *filters, "file", str(file), *settings]
        process = subprocess.Popen(command, pass_fds=[fd])
    try:
        yield f"nbd+unix:///?socket={path}", process
    finally:
        process.kill()
        process.wait()


def policy_of(unit: str) -> tuple[str, ...]:
    """Return settings of a server that refuses requests that are not multiples of *unit*."""
    return (
        "blocksize-error-policy=error",
        f"blocksize-minimum={unit}",
        "blocksize-preferred=65536",
        "blocksize-maximum=1M",
    )


@pytest.mark.parametrize("unit", ["512", "4096", "65536"])
@pytest.mark.parametrize("zero", [(), ("--filter=nozero",)])
def test_writes_are_whole_units_of_the_server(
    repository: Path, manifest: Manifest, file: Path, unit: str, zero: tuple[str, ...]
) -> None:
    policy = policy_of(unit)
    with nbdkit(file, "--filter=blocksize-policy", *zero, *policy) as (uri, _):
        result = restore(repository, manifest, uri, verifies=True)

    assert file.read_bytes() == IMAGE + b"\xee" * (_WHOLE - SIZE)
    assert result.bytes_written == SIZE


def test_an_export_that_ends_within_a_unit_is_refused(
    repository: Path, manifest: Manifest, file: Path
) -> None:
    os.truncate(file, SIZE)
    with (
        nbdkit(file, "--filter=blocksize-policy", *policy_of("4096")) as (uri, _),
        pytest.raises(UsageError, match="not a multiple"),
    ):
        restore(repository, manifest, uri)


@pytest.mark.parametrize("request_name", ["pwrite", "zero"])
def test_an_error_of_the_server_ends_the_run_and_the_next_one_completes(
    repository: Path, manifest: Manifest, file: Path, tmp_path: Path, request_name: str
) -> None:
    switch = tmp_path / "fails"
    switch.touch()
    errors = f"error-{request_name}=EIO", f"error-{request_name}-rate=100%"
    with nbdkit(file, "--filter=error", *errors, f"error-{request_name}-file={switch}") as (uri, _):
        with pytest.raises(TargetFailed, match="Input/output error"):
            restore(repository, manifest, uri)
        switch.unlink()

        restore(repository, manifest, uri)

    assert file.read_bytes() == IMAGE + b"\xee" * (_WHOLE - SIZE)


@pytest.mark.parametrize("name", ["write", "zero", "flush"])
def test_a_server_that_is_killed_ends_the_run_and_the_next_one_completes(
    repository: Path,
    manifest: Manifest,
    file: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with nbdkit(file) as (uri, process), monkeypatch.context() as patch:
        original = getattr(InPlaceExport, name)

        def kill_first(*arguments: object) -> None:
            process.kill()
            process.wait()
            original(*arguments)

        patch.setattr(InPlaceExport, name, kill_first)
        with pytest.raises((TargetFailed, SourceUnavailable)):
            restore(repository, manifest, uri)

    with nbdkit(file) as (uri, _):
        restore(repository, manifest, uri)

    assert file.read_bytes() == IMAGE + b"\xee" * (_WHOLE - SIZE)
