"""How long to wait for what, how often to try, and how much to accept."""

from dataclasses import dataclass

from cbtfs.source.transport.answers import CALL_SECONDS, MAX_BYTES


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Times are in seconds. Pauses are between tries: each pause is followed by one more try."""

    reply: float = 120.0
    """For the answer to one request; a wait for updates is always shorter."""
    call: float = CALL_SECONDS
    """For one whole answer, however slowly its bytes come."""
    poll: int = 5
    """The longest that one wait for updates blocks: how late an interrupt is noticed."""
    task: float = 3600.0
    """For one task: consolidating a large delta disk can take that long."""
    login: float = 300.0
    """Between two signs of life; an idle session ends after 30 minutes."""
    connection: tuple[float, ...] = (0.5, 2.0, 8.0)
    """After a lost connection, or while the server is starting."""
    away: float = 900.0
    """For a server that answers nobody to come back: a vCenter that restarts takes minutes."""
    knock: float = 5.0
    """Between two tries whether it has come back."""
    busy: tuple[float, ...] = (5.0, 15.0, 30.0, 60.0)
    """After another operation on the VM stood in the way."""
    quiesce: tuple[float, ...] = (5.0, 5.0)
    """After a guest could not be quiesced."""
    max_bytes: int = MAX_BYTES
    """Of one answer, decompressed."""
    max_pages: int = 10_000
    """Of one reading of properties, where a page has 1000 objects unless the server allows fewer;
    of one list of changes, besides one for every 16 MiB of the disk."""
    max_updates: int = 1_000
    """Truncated sets of updates, one after the other, about one task."""
