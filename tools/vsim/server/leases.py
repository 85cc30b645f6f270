"""Downloads of a lease: GET /nfc/<ticket>/<disk>. The ticket replaces the login."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.vsim.api.site import SimulatedSite
from tools.vsim.data.streamed import write_streamed
from tools.vsim.server.folder import Sending, refused


class LeaseService:
    """Answers requests for /nfc."""

    def __init__(self, site: SimulatedSite) -> None:
        self._site = site

    def answer(self, target: str, headers: Mapping[str, str]) -> Sending:
        """Return a whole disk as a streamOptimized VMDK; Range is ignored."""
        ticket, _, name = target.removeprefix("/nfc/").partition("/")
        world = self._site.world
        with world.lock:
            disk = self._site.leases.find(ticket, name)
            if disk is None:
                return refused(404, "the lease does not exist or has ended")
            source = os.open(disk.image, os.O_RDONLY)
        try:
            rule = world.on_read(0, disk.size, disk.export)
            if rule and rule.action == "eio":
                return refused(500, "input/output error")
            with tempfile.TemporaryFile(dir=Path(world.state)) as file:
                write_streamed(source, disk.size, name, file, world.knobs.data.lease_stream)
                length = file.tell()
                file.flush()
                content = os.dup(file.fileno())
        finally:
            os.close(source)
        cut = length // 2 if rule and rule.action in ("close", "short") else 0
        kind = {"Content-Type": "application/x-vnd.vmware-streamVmdk"}
        return Sending(200, kind, content, 0, length, cut)
