"""An nbdkit with VMware's plugin, as far as these tests need one."""

import json
import sys
from pathlib import Path
from typing import Any

from cbtfs.source.transport.base import DiskReader, FrozenDisk, Transport
from cbtfs.source.transport.nbdkit import NbdkitTransport
from cbtfs.source.vsphere.connect.session import Session
from tools.vsim import Simulator

ROOT = Path(__file__).parents[3]


def install(folder: Path) -> str:
    """The program `nbdkit` in *folder*, which serves what disks.json there says."""
    program = folder / "nbdkit"
    program.write_text(
        f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m tests.scenarios.vsphere.fake_nbdkit "$@"\n'
    )
    program.chmod(0o755)
    (folder / "disks.json").write_text("{}")
    return str(program)


def started(folder: Path) -> list[dict[str, Any]]:
    """What the processes were started with."""
    return [json.loads(each.read_text()) for each in sorted(folder.glob("started-*.json"))]


class Prepared:
    """Tells the program which image is which before a disk is opened."""

    def __init__(self, sim: Simulator, session: Session, folder: Path) -> None:
        self._sim = sim
        self._folder = folder
        self._inner = NbdkitTransport(session.vddk_login(folder), str(folder / "nbdkit"))
        self.name = self._inner.name
        self.access = self._inner.access
        self.privileges = self._inner.privileges

    def connections(self) -> int:
        return self._inner.connections()

    def refusal(self, disk: FrozenDisk) -> str | None:
        return self._inner.refusal(disk)

    def open(self, disk: FrozenDisk) -> DiskReader:
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
