"""strace, looking on at a child or meddling with it, from the moment that the child asks for it."""

import os
import subprocess
from pathlib import Path

from tools.crash.child import Send


class Tracer:
    """Have strace do what *options* send to a child, and write to *file* what it sees."""

    def __init__(self, file: Path, *options: str) -> None:
        self._file = file
        self._options = options
        self._ended, self._open = os.pipe()

    def install(self, send: Send) -> None:
        """For the child, while it has one thread."""
        tracer = subprocess.Popen(
            [
                *("strace", "-f", "-e", "signal=none", *self._options),
                *("-o", self._file, "-p", str(os.getpid())),
            ],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[self._open],
        )
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if "attached" not in line:
            raise OSError(f"strace does not look on: {line.strip()}")

    def lines(self) -> list[str]:
        """What strace wrote, once the child has ended; once only."""
        os.close(self._open)
        os.read(self._ended, 1)  # strace has written its last line when it lets go of the pipe
        os.close(self._ended)
        return self._file.read_text().splitlines()
