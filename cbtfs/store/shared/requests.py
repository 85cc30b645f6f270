"""Requests to a backend whose replies may be lost."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from cbtfs.core.sealed import MAX_BYTES
from cbtfs.store.backend.base import Backend, NoReply

log = logging.getLogger(__name__)

Value = TypeVar("Value")
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 1.0
"""Pause after the first request without a reply; it doubles. A backend has repeated it, too."""


def create_own(backend: Backend, name: str, data: bytes) -> bool:
    """Create an object; return whether it exists with this content because of this program.

    *data* contains a random id, so an equal object is that of an earlier request of this program.

    Raises:
        NoReply: the storage does not answer; the object may exist, or appear at any later time.
        OSError: the storage refused; the object may exist.
    """
    pause = _PAUSE_SECONDS
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            backend.create(name, data)
        except FileExistsError:
            return content_of(backend, name) == data
        except NoReply as exc:
            if attempt == _ATTEMPTS:
                raise
            log.info("no reply to the creation of %s: %s", backend.path(name), exc)
            time.sleep(pause)
            pause *= 2
        else:
            return True
    raise AssertionError


def content_of(backend: Backend, name: str) -> bytes | None:
    """Return the content of an object; None if it does not exist."""
    try:
        return backend.get(name, 0, MAX_BYTES + 1).data
    except FileNotFoundError:
        return None


def listed(backend: Backend, parse: Callable[[str], Value | None]) -> Iterator[tuple[str, Value]]:
    """Yield the objects whose name *parse* understands, with its result."""
    for name in backend.names():
        value = parse(name)
        if value is not None:
            yield name, value
