"""The pipe through which a process of the mount reports to its parent: ready, or an error."""

import inspect
import json
import os
from typing import Final

from cbtfs import errors
from cbtfs.errors import CbtfsError

READY: Final = b"ready\n"

_CLASSES: Final = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, CbtfsError)
}


def send_ready(fd: int) -> None:
    """Report that the process is ready."""
    os.write(fd, READY)


def send_error(fd: int, exc: CbtfsError) -> None:
    """Report *exc* in one line.

    An exception of a class that is defined outside of cbtfs.errors arrives as its nearest base
    class there, so that exit code and errno are kept.
    """
    name = next(cls.__name__ for cls in type(exc).__mro__ if cls in _CLASSES.values())
    line = json.dumps({"class": name, "message": str(exc)}) + "\n"
    os.write(fd, line.encode())


def parse_error(data: bytes) -> CbtfsError | None:
    """Return the last reported error in *data*, of the class that was sent, or None."""
    for line in reversed(data.splitlines()):
        if line.startswith(b"{"):
            document = json.loads(line)
            return _CLASSES[document["class"]](document["message"])
    return None
