"""A damaged catalog ends no command without a word: one line says what to do."""

import os
import subprocess
import sys
from pathlib import Path

from tests.make_points import add_point, new_repository

_FAULTS = """
import ctypes, mmap, os, sys
from cbtfs.cli.main import run
from cbtfs.store import repository
def fault(*_):
    {how}
repository.reading = fault
sys.argv = ["cbtfs", "--repo", {repository!r}, "list"]
run()
"""
_ABORT = "os.abort()"
_BEYOND_THE_END = (
    "fd = os.memfd_create('page'); os.ftruncate(fd, 4096); page = mmap.mmap(fd, 4096); "
    "os.ftruncate(fd, 0); page[0]"
)


def test_a_memory_fault_of_the_catalog_names_the_remedy(tmp_path: Path) -> None:
    for how in (_ABORT, _BEYOND_THE_END, "ctypes.string_at(0)"):
        program = _FAULTS.format(how=how, repository=str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )

        assert done.returncode == 21, how
        assert done.stderr.startswith("cbtfs: catalog unusable: a page cannot be read")
        assert "run 'cbtfs repair'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_remedy_for_a_damaged_catalog_works(tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repository")
    point = add_point(repository, {"disk": b"content"})
    data = repository / "catalog" / "data.mdb"
    size = data.stat().st_size
    with data.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(os.urandom(size - 2 * 4096))

    def cbtfs(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cbtfs", f"--repo={repository}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first = cbtfs("check")
    mended = cbtfs("repair")
    then = cbtfs("check", "--read-data")

    assert first.returncode == 21
    assert "cbtfs repair" in first.stdout
    assert mended.returncode == then.returncode == 0
    assert point.point in cbtfs("list", "--json").stdout
