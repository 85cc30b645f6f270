"""A repository with a point of two disks, and a directory for its overlays."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final

from cbtfs.cli.main import main
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest
from cbtfs.errors import CbtfsError
from cbtfs.overlay.folder import overlay_folder
from cbtfs.overlay.serve import stop_overlay
from cbtfs.store.repository import reading
from tests.docs.documents import MemberTables
from tests.make_points import SIGNALS, add_point, new_repository, read_point

MIB: Final = 1 << 20
BLOCK: Final = 64 << 10


def images() -> dict[str, bytes]:
    """Return a disk with data and holes, and one whose size is no multiple of a sector."""
    rng = random.Random(1)
    root = rng.randbytes(MIB) + bytes(2 * MIB) + rng.randbytes(MIB)
    return {"root": root, "data": rng.randbytes(3 * BLOCK + 1000)}


def on_sectors(image: bytes) -> bytes:
    """Return a disk as QEMU shows it: in whole sectors."""
    return image.ljust(-(-len(image) // 512) * 512, b"\0")


class OverlaySite:
    """A repository, a directory for overlays, and commands on them."""

    def __init__(self, path: Path, create: Callable[[Path, int], object] = new_repository) -> None:
        """*create* makes the repository at a path, with blocks of a size."""
        self.repository = path / "repo"
        self.directory = path / "overlays"
        create(self.repository, BLOCK)
        self.images = images()
        self.tables = MemberTables()
        self.point = self.add()

    def add(self, vm: str = "web01") -> Manifest:
        """Commit a point of the disks as they are now."""
        return add_point(self.repository, self.images, vm=vm)

    @property
    def overlay(self) -> Path:
        return self.directory / "lab"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cbtfs", f"--repo={self.repository}", *words]

    def act(self, action: str, *words: str) -> list[str]:
        """Return the command `overlay ACTION` on the overlay of this site."""
        return self.command("overlay", action, f"--dir={self.directory}", *words)

    def run(self, command: list[str], code: int = 0, folder: Path | None = None) -> dict[str, Any]:
        """Run *command* with --json, in *folder*; expect *code*, and return its document.

        It runs in this process, unless that would fork or change the directory.
        """
        at = command.index("--") if "--" in command else len(command)
        command = [*command[:at], "--json", *command[at:]]
        if folder is None and "--fork" not in command:
            output = io.StringIO()
            with redirect_stdout(output):
                returned = main(command[3:])
            text, errors = output.getvalue(), ""
        else:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
            returned, text, errors = done.returncode, done.stdout, done.stderr
        assert returned == code, text + errors
        document: dict[str, Any] = json.loads(text)
        if not code and command[4] == "overlay":
            self._compare(command[5], document)
        return document

    def _compare(self, action: str, document: dict[str, Any]) -> None:
        """Compare a document with the tables of the manual."""
        name, tables = f"overlay {action}", self.tables.tables
        if action == "commit":
            tables[name] = {**tables["ingest image"], **tables[name]}
        self.tables.compare(name, document)

    def create(self, *options: str) -> dict[str, Any]:
        return self.run(self.act("create", self.point.point, "lab", *options))

    @contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Run the overlay in the foreground; it is ready. Stop it at the end, if it still runs."""
        child = subprocess.Popen(
            [*SIGNALS, *self.act("start", "lab", *options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line == "ready\n":
                    break
            else:
                assert child.stderr is not None
                raise AssertionError(child.stderr.read())
            yield child
            if child.poll() is None:
                child.terminate()
                _, errors = child.communicate(timeout=60)
                assert child.returncode == 0, errors
        finally:
            child.kill()
            child.communicate()

    def discard(self) -> None:
        self.run(self.act("discard", "lab"))

    def end(self) -> None:
        """Compare the documents with the manual, and remove what a killed start has left."""
        assert self.tables.problems == []
        if self.overlay.is_dir():
            with suppress(CbtfsError):
                stop_overlay(overlay_folder(self.directory, "lab"))
        shutil.rmtree(self.directory, ignore_errors=True)


def committed(site: OverlaySite, point: str) -> dict[str, bytes]:
    """Return the disks of a point that was committed."""
    with reading(site.repository) as repository:
        manifest = repository.points.read_manifest(PointId(point))
    return read_point(site.repository, manifest)


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Write to a disk, and flush."""
    fd = os.open(path, os.O_RDWR)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)
