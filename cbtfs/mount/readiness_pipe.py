"""A pipe on which a process of the mount reports that it is ready, or why it failed."""

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
    os.write(fd, READY)


def send_error(fd: int, exc: CbtfsError) -> None:
    """Send *exc* as one line.

    An exception of a class that is defined outside of cbtfs.errors arrives as its nearest base
    class there, so that exit code and errno are kept.
    """
    name = next(cls.__name__ for cls in type(exc).__mro__ if cls in _CLASSES.values())
    line = json.dumps({"class": name, "message": str(exc)}) + "\n"
    os.write(fd, line.encode())


def parse_error(data: bytes) -> CbtfsError | None:
    """Return the last error in *data*, an instance of the class that was sent; None if none."""
    for line in reversed(data.splitlines()):
        if line.startswith(b"{"):
            sent = json.loads(line)
            return _CLASSES[sent["class"]](sent["message"])
    return None
