"""How long to wait for what, and how often to try."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Pauses stand between tries: so many pauses, so many tries more."""

    reply: float = 120.0
    """For the answer to one request; a wait for updates is always shorter."""
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
