"""The turn of one process at a catalog that several processes write to."""

from contextlib import AbstractContextManager
from typing import Protocol


class Turn:
    """A turn. *is_unsure*: the last process died within its turn; cleared by verification."""

    def __init__(self, *, is_unsure: bool) -> None:
        self.is_unsure = is_unsure


class TurnTaker(Protocol):
    """The lock that gives turns."""

    def held(self) -> AbstractContextManager[Turn]:
        """Wait for the turn and keep it until the end of the block; a thread may nest it."""
