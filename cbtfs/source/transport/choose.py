"""Which of several transports reads the disks of a snapshot."""

from collections.abc import Sequence

from cbtfs.core.names import printable
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import FrozenDisk, Transport


def choose(transports: Sequence[Transport], disks: Sequence[FrozenDisk]) -> Transport:
    """The first that refuses none of *disks*; SourceUnavailable tells why each refused."""
    refusals = []
    for transport in transports:
        refusal = _refusal(transport, disks)
        if refusal is None:
            return transport
        refusals.append(f"{transport.name}: {refusal}")
    raise SourceUnavailable(f"no transport can read the disks: {'; '.join(refusals)}")


def _refusal(transport: Transport, disks: Sequence[FrozenDisk]) -> str | None:
    for disk in disks:
        why = transport.refusal(disk)
        if why is not None:
            return f"{printable(disk.label)}: {why}"
    return None
