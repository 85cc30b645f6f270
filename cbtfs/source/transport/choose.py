"""Choose the transport that reads the disks of a snapshot."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from cbtfs.core.names import printable
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import Transport, TransportDisk

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """The chosen transport, and why each earlier one was refused."""

    transport: Transport
    refusals: tuple[str, ...]


def choose(transports: Sequence[Transport], disks: Sequence[TransportDisk]) -> Choice:
    """Return the first transport that can read all *disks*.

    SourceUnavailable names the reason of each transport if none can.
    """
    refusals: list[str] = []
    for transport in transports:
        refusal = _refusal(transport, disks)
        if refusal is None:
            return Choice(transport, tuple(refusals))
        refusals.append(f"{transport.name}: {refusal}")
        log.info("not by %s", refusals[-1])
    raise SourceUnavailable(f"no transport can read the disks: {'; '.join(refusals)}")


def _refusal(transport: Transport, disks: Sequence[TransportDisk]) -> str | None:
    for disk in disks:
        why = transport.refusal(disk)
        if why is not None:
            return f"{printable(disk.label)}: {why}"
    return None
