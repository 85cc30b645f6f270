"""How a process of the mount tells the one above it that it is ready, or why it failed."""

import json
import os
from typing import Final

from cbtfs import errors
from cbtfs.errors import CbtfsError, MountFailed

READY: Final = b"ready\n"


def send_ready(fd: int) -> None:
    os.write(fd, READY)


def send_error(fd: int, exc: CbtfsError) -> None:
    """Send *exc* as one line."""
    line = json.dumps({"exit_code": exc.exit_code, "message": str(exc)}) + "\n"
    os.write(fd, line.encode())


def parse_error(data: bytes) -> CbtfsError | None:
    """The last error that was sent, of a class with its exit code; None if there was none."""
    for line in reversed(data.splitlines()):
        if line.startswith(b"{"):
            found = json.loads(line)
            return _class_of(found["exit_code"])(found["message"])
    return None


def _class_of(exit_code: int) -> type[CbtfsError]:
    classes = (each for each in vars(errors).values() if isinstance(each, type))
    found = (each for each in classes if issubclass(each, CbtfsError) and each is not CbtfsError)
    return next((each for each in found if each.exit_code == exit_code != 1), MountFailed)
