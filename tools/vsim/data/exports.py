"""The NBD server: exports <vm>/<snapshot>/<deviceKey>, each exactly the bytes of the snapshot."""

import logging
import os
import socket
import socketserver
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.vsim.data.nbd import Closed, Conversation
from tools.vsim.data.serving import StoppableServer
from tools.vsim.knobs import DataKnobs
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.world import World
from tools.vsim.rules import ReadRule

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SnapshotExport:
    """One open disk of a snapshot."""

    world: World
    machine: SimulatedMachine
    name: str
    fd: int
    size: int
    announced: int

    def on_read(self, start: int, end: int) -> ReadRule | None:
        return self.world.on_read(start, end, self.name)

    def close(self) -> None:
        os.close(self.fd)
        with self.world.changing():
            self.machine.readers[self.name.split("/")[1]] -= 1


class SnapshotExports:
    """All disks of all snapshots."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def knobs(self) -> DataKnobs:
        return self._world.knobs.data

    def names(self) -> list[str]:
        with self._world.lock:
            return [
                f"{machine.moid}/{snapshot.moid}/{frozen.spec.key}"
                for machine in self._world.machines.values()
                for snapshot in machine.snapshots
                for frozen in snapshot.disks
                if frozen.truth
            ]

    def open(self, name: str) -> SnapshotExport | None:
        with self._world.lock:
            found = self._find(name)
            if found is None:
                return None
            machine, path, size = found
            if self._world.is_host_busy(machine.moid):
                raise PermissionError("too many readers")
            fd = os.open(path, os.O_RDONLY)
            machine.readers[name.split("/")[1]] += 1
        announced = size + self.knobs.size_delta
        return SnapshotExport(self._world, machine, name, fd, size, announced)

    def _find(self, name: str) -> tuple[SimulatedMachine, Path, int] | None:
        vm, _, rest = name.partition("/")
        snapshot_id, _, key = rest.partition("/")
        found = self._world.snapshot(snapshot_id)
        if found is None or found[0].moid != vm or not key.isdecimal():
            return None
        frozen = found[1].disk(int(key))
        if frozen is None or frozen.truth is None:
            return None
        return found[0], frozen.truth, frozen.spec.size


class NbdServer(StoppableServer):
    """Serves over TCP, or over a Unix socket if the address is a path."""

    def __init__(self, address: tuple[str, int] | Path, exports: SnapshotExports) -> None:
        self.exports = exports
        if isinstance(address, Path):
            self.address_family = socket.AF_UNIX
        super().__init__(address if isinstance(address, tuple) else str(address), _NbdHandler)

    @property
    def uri(self) -> str:
        """nbd://host:port/ or nbd+unix:///?socket=path; export names go behind the slash."""
        address: Any = self.server_address
        if self.address_family == socket.AF_UNIX:
            return f"nbd+unix:///?socket={address}"
        return f"nbd://{address[0]}:{address[1]}/"

    def stop(self) -> None:
        super().stop()
        if self.address_family == socket.AF_UNIX:
            Path(str(self.server_address)).unlink()


class _NbdHandler(socketserver.StreamRequestHandler):
    server: NbdServer
    wbufsize = 1 << 20

    def handle(self) -> None:
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exports = self.server.exports
        stream: Any = _Both(self.rfile, self.wfile)
        talk = Conversation(stream, exports)
        try:
            talk.run()
        except (Closed, ConnectionError) as error:
            log.debug("NBD connection ended: %r", error)
        finally:
            if talk.export:
                talk.export.close()


@dataclass(frozen=True, slots=True)
class _Both:
    reader: Any
    writer: Any

    def read(self, length: int) -> bytes:
        return bytes(self.reader.read(length))

    def write(self, data: bytes) -> int:
        return int(self.writer.write(data))

    def flush(self) -> None:
        self.writer.flush()
