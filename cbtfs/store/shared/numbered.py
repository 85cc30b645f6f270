"""Values that change by the creation of the next number: `<name>.<number>`."""

from collections.abc import Callable
from typing import TypeVar

from cbtfs.core.shared import numbered, split_numbered
from cbtfs.store.backend.base import Backend
from cbtfs.store.shared.requests import content_of, create_own, listed

Value = TypeVar("Value")


def all_numbers(backend: Backend) -> dict[str, list[int]]:
    """Return the numbers of each name, ascending."""
    numbers: dict[str, list[int]] = {}
    for _, (name, number) in listed(backend, split_numbered):
        numbers.setdefault(name, []).append(number)
    for known in numbers.values():
        known.sort()
    return numbers


def numbers_of(backend: Backend, name: str) -> list[int]:
    """Return the numbers of one name, ascending."""
    parsed = map(split_numbered, backend.names_after("", f"{name}."))
    return sorted(entry[1] for entry in parsed if entry is not None and entry[0] == name)


def newest_of(backend: Backend, name: str) -> tuple[int, bytes] | None:
    """Return the highest number of a name and its content; None without any number."""
    while numbers := numbers_of(backend, name):
        data = content_of(backend, numbered(name, numbers[-1]))
        if data is not None:
            return numbers[-1], data
    return None


def put_next(
    backend: Backend, name: str, make: Callable[[tuple[int, bytes] | None], bytes | None]
) -> int:
    """Create the next number of *name*, and delete the lower ones; return the number.

    *make* returns the content for the newest one, and is called again if another program was
    faster. None ends the call without a change.
    """
    while True:
        newest = newest_of(backend, name)
        data = make(newest)
        number = 0 if newest is None else newest[0]
        if data is None:
            return number
        if create_own(backend, numbered(name, number + 1), data):
            drop_lower(backend, name, number + 1)
            return number + 1


def drop_lower(backend: Backend, name: str, number: int) -> None:
    """Delete the numbers of *name* that are below *number*."""
    for lower in numbers_of(backend, name):
        if lower < number:
            backend.delete(numbered(name, lower))


def drop_all(backend: Backend, name: str) -> None:
    """Delete all numbers of *name*."""
    for number in numbers_of(backend, name):
        backend.delete(numbered(name, number))
