"""The fake of VMware's library, tools/vsim/vddk, compiled once."""

import tempfile
from functools import cache
from pathlib import Path

from cbtfs.source.transport.base import Transport
from cbtfs.source.transport.vddk.transport import VddkTransport
from cbtfs.source.vsphere.connect.session import Session
from tools.vsim import Simulator
from tools.vsim.vddk.build import build, point_at


@cache
def _built() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix="vsim-vddk-")
    build(Path(folder.name))
    return folder


def libdir(sim: Simulator) -> Path:
    """Return the directory for --vddk-libdir, for the disks of *sim*."""
    folder = sim.state / "vddk"
    if not folder.exists():
        folder.mkdir()
        (folder / "lib64").symlink_to(Path(_built().name) / "lib64")
        point_at(folder, sim.host, sim.vddk_port)
    return folder


def by_vddk(sim: Simulator, session: Session) -> Transport:
    return VddkTransport(session.vddk_login(libdir(sim)))
