"""Requests of programs: to the object store, and for a decision that the scheduler makes."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from tools.model.store import Key, Name, Prefix, Value

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object if it is absent; the reply is a Boolean or UNANSWERED."""

    key: Key
    value: Value


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object; the reply is None or UNANSWERED."""

    key: Key


@dataclass(frozen=True, slots=True)
class Get:
    """Read an object; the reply is its value or None."""

    key: Key


@dataclass(frozen=True, slots=True)
class Page:
    """List objects after a name; the reply is a Listing.

    Values are part of the reply because they never change while the name exists.
    """

    prefix: Prefix
    after: Name | None


@dataclass(frozen=True, slots=True)
class Choose:
    """Ask for a number below *count*; no time passes."""

    count: int


@dataclass(frozen=True, slots=True)
class Acquire:
    """Wait for a lock of a local directory, which the death of its holder releases."""

    lock: str


@dataclass(frozen=True, slots=True)
class Release:
    """Release a lock."""

    lock: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Replace an object of a local directory."""

    key: Key
    value: Value


@dataclass(frozen=True, slots=True)
class Pause:
    """Let others work."""


class _Unanswered:
    """No reply arrived: the request had its effect, will have it later, or never has it."""

    def __repr__(self) -> str:
        return "UNANSWERED"


UNANSWERED: Final = _Unanswered()

Mutation: TypeAlias = Create | Delete
Request: TypeAlias = Create | Delete | Get | Page | Choose | Pause | Acquire | Release | Replace
Program: TypeAlias = Generator[Request, Any, T]
"""A program, or a part that returns a value. It sends one request at a time."""
