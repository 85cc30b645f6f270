"""The NBD server. Export <vm>/<snapshot>/<deviceKey> is exactly one disk of a snapshot."""

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
    """An open disk of a snapshot."""

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
    """The disks of all snapshots, as NBD exports."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def knobs(self) -> DataKnobs:
        return self._world.knobs.data

    def names(self) -> list[str]:
        """Return the names of all exports."""
        with self._world.lock:
            return [
                f"{machine.moid}/{snapshot.moid}/{state.spec.key}"
                for machine in self._world.machines.values()
                for snapshot in machine.snapshots
                for state in snapshot.disks
                if state.truth
            ]

    def open(self, name: str) -> SnapshotExport | None:
        """Open an export; None if it does not exist. Raises PermissionError if its host is busy."""
        with self._world.lock:
            target = self._find(name)
            if target is None:
                return None
            machine, path, size = target
            if self._world.is_host_busy(machine.moid):
                raise PermissionError("the host has too many readers")
            fd = os.open(path, os.O_RDONLY)
            machine.readers[name.split("/")[1]] += 1
        announced = size + self.knobs.size_delta
        return SnapshotExport(self._world, machine, name, fd, size, announced)

    def _find(self, name: str) -> tuple[SimulatedMachine, Path, int] | None:
        vm, _, rest = name.partition("/")
        snapshot_id, _, key = rest.partition("/")
        pair = self._world.snapshot(snapshot_id)
        if pair is None or pair[0].moid != vm or not key.isdecimal():
            return None
        machine, snapshot = pair
        state = snapshot.disk(int(key))
        if state is None or state.truth is None:
            return None
        return machine, state.truth, state.spec.size


class NbdServer(StoppableServer):
    """Serves NBD over TCP, or over a Unix socket if the address is a path."""

    def __init__(self, address: tuple[str, int] | Path, exports: SnapshotExports) -> None:
        self.exports = exports
        if isinstance(address, Path):
            self.address_family = socket.AF_UNIX
        super().__init__(address if isinstance(address, tuple) else str(address), _NbdHandler)

    @property
    def uri(self) -> str:
        """URI nbd://host:port/ or nbd+unix:///?socket=path; export names follow the slash."""
        address: Any = self.server_address
        if self.address_family == socket.AF_UNIX:
            return f"nbd+unix:///?socket={address}"
        return f"nbd://{address[0]}:{address[1]}/"

    def stop(self) -> None:
        """Close the port and every connection; remove the Unix socket."""
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
        stream: Any = _Duplex(self.rfile, self.wfile)
        conversation = Conversation(stream, exports)
        try:
            conversation.run()
        except (Closed, ConnectionError) as error:
            log.debug("NBD connection ended: %r", error)
        finally:
            if conversation.export:
                conversation.export.close()


@dataclass(frozen=True, slots=True)
class _Duplex:
    reader: Any
    writer: Any

    def read(self, length: int) -> bytes:
        return bytes(self.reader.read(length))

    def write(self, data: bytes) -> int:
        return int(self.writer.write(data))

    def flush(self) -> None:
        self.writer.flush()
