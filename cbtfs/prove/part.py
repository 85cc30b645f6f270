"""The results of a proof: one for each tested part of a point, and how a level can end early."""

from dataclasses import dataclass
from typing import Literal

from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError

Result = Literal["passed", "failed", "untested", "nothing"]
"""*nothing*: the part has nothing to test, such as a swap area."""


@dataclass(frozen=True, slots=True)
class Part:
    """A disk, a partition or a volume, and its result at one level."""

    name: str
    level: int
    result: Result
    text: str

    @property
    def line(self) -> str:
        """Return the part as one line of text."""
        return printable(f"level {self.level}: {self.name}: {self.result}: {self.text}")


class Refuted(Exception):
    """Raised when a level fails: the point does not work."""


class Untestable(Exception):
    """Raised when a level cannot be tested, which says nothing about the point."""


class Stopped(CbtfsError):
    """Raised when the command ends before the proof does."""
