"""Choose the transport that reads the disks of a snapshot."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cbtfs.core.names import printable
from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import Probing, Transport, TransportDisk

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """The chosen transport, and why each earlier one was refused."""

    transport: Transport
    refusals: tuple[str, ...]


def choose(
    transports: Sequence[Transport],
    disks: Sequence[TransportDisk],
    *,
    is_probing: bool = False,
) -> Choice:
    """Return the first transport that can read all *disks*.

    With *is_probing*, which needs the snapshot, a transport that can do so reads a few bytes first.
    If no other transport can read the disks, one that only failed to do that is chosen: the disks
    that it cannot read may be left out.

    Raises:
        SourceUnavailable: none can; with the reason of each transport.
        AccessDenied: the user lacks a privilege for reading.
    """
    refusals: list[str] = []
    doubtful: Choice | None = None
    for transport in transports:
        refusal = _first(transport.refusal, disks)
        if refusal is None and is_probing and isinstance(transport, Probing):
            refusal = _first(transport.probe, disks)
            if refusal is not None and doubtful is None:
                doubtful = Choice(transport, tuple(refusals))
        if refusal is None:
            return Choice(transport, tuple(refusals))
        refusals.append(f"{transport.name}: {refusal}")
        log.info("not by %s", refusals[-1])
    if doubtful is not None:
        return doubtful
    raise SourceUnavailable(f"no transport can read the disks: {'; '.join(refusals)}")


def _first(
    question: Callable[[TransportDisk], str | None], disks: Sequence[TransportDisk]
) -> str | None:
    for disk in disks:
        why = question(disk)
        if why is not None:
            return f"{printable(disk.label)}: {why}"
    return None
