"""The guest of a point, booted for one run of the command."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.bisect.command import AGENT, QMP, SERIAL
from cbtfs.core.manifest import Manifest
from cbtfs.mount.private import PrivateMount
from cbtfs.prove.boot import Booted, booted_guest
from cbtfs.prove.observe import BootOptions
from cbtfs.qemu.machine import Consoles
from cbtfs.store.repository import Repository

VARIABLES: Final = {SERIAL: "CBTFS_SERIAL", AGENT: "CBTFS_AGENT", QMP: "CBTFS_QMP"}
"""Variables of the command with the paths of the sockets, by their placeholders."""


@dataclass(frozen=True, slots=True)
class GuestOfPoint:
    """A guest that runs, or has ended."""

    booted: Booted
    sockets: Mapping[str, Path]
    """By placeholder."""

    @property
    def variables(self) -> dict[str, str]:
        """Variables of the command."""
        paths = {VARIABLES[name]: str(path) for name, path in self.sockets.items()}
        return {**paths, "CBTFS_VERDICT": self.booted.verdict}


@contextmanager
def guest_of_point(
    repository: Repository, manifest: Manifest, mounted: PrivateMount, options: BootOptions
) -> Iterator[GuestOfPoint]:
    """Boot the guest of a point from images over the files of a mount, until the block ends.

    Raises what booted_guest() raises.
    """
    disks = [(disk, mounted.path(manifest, disk)) for disk in manifest.of_kind("disk")]
    stop = threading.Event()
    with booted_guest(repository, manifest, disks, options, stop) as (booted, consoles):
        yield GuestOfPoint(booted, dict(_sockets(consoles)))


def _sockets(consoles: Consoles) -> Iterator[tuple[str, Path]]:
    yield SERIAL, consoles.serial
    for name, path in ((AGENT, consoles.agent), (QMP, consoles.qmp)):
        if path is not None:
            yield name, path
