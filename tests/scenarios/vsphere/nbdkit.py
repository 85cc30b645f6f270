"""A fake nbdkit with VMware's plugin."""

import json
import sys
from pathlib import Path
from typing import Any

from cbtfs.source.transport.base import DiskReader, Transport, TransportDisk
from cbtfs.source.transport.nbdkit import NbdkitTransport
from cbtfs.source.vsphere.connect.session import Session
from tools.vsim import Simulator

ROOT = Path(__file__).parents[3]


def install(folder: Path) -> str:
    """Install a program `nbdkit` in *folder* that serves the images of disks.json there."""
    program = folder / "nbdkit"
    program.write_text(
        f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m tests.scenarios.vsphere.fake_nbdkit "$@"\n'
    )
    program.chmod(0o755)
    (folder / "disks.json").write_text("{}")
    return str(program)


def started(folder: Path) -> list[dict[str, Any]]:
    """Return the parameters of each started process."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("started-*.json"))]


class Prepared:
    """A transport that writes disks.json before a disk is opened."""

    def __init__(self, sim: Simulator, session: Session, folder: Path) -> None:
        self._sim = sim
        self._folder = folder
        self._inner = NbdkitTransport(session.vddk_login(folder), str(folder / "nbdkit"))
        self.name = self._inner.name
        self.access = self._inner.access
        self.privileges = self._inner.privileges

    def connections(self) -> int:
        return self._inner.connections()

    def refusal(self, disk: TransportDisk) -> str | None:
        return self._inner.refusal(disk)

    def open(self, disk: TransportDisk) -> DiskReader:
        image = self._sim.state / "snapshots" / disk.snapshot / f"{disk.key}.raw"
        known = self._folder / "disks.json"
        disks = json.loads(known.read_text())
        known.write_text(json.dumps({**disks, f"{disk.snapshot} {disk.path}": str(image)}))
        return self._inner.open(disk)


def by_nbdkit(folder: Path) -> Any:
    install(folder)

    def make(sim: Simulator, session: Session) -> Transport:
        return Prepared(sim, session, folder)

    return make
