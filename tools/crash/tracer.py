"""strace attached to a child, to record or fail its calls."""

import os
import subprocess
from pathlib import Path

from tools.crash.child import Send


class Tracer:
    """An strace with *options* that attaches to a child and writes its output to *file*."""

    def __init__(self, file: Path, *options: str) -> None:
        self._file = file
        self._options = options
        self._ended, self._open = os.pipe()

    def install(self, send: Send) -> None:
        """Attach strace to this process. Call it in the child, while it has one thread."""
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
            raise OSError(f"strace did not attach: {line.strip()}")

    def lines(self) -> list[str]:
        """Wait for the end of the child and return the output of strace. Call it once."""
        os.close(self._open)
        os.read(self._ended, 1)  # strace closes the pipe after its last line
        os.close(self._ended)
        return self._file.read_text().splitlines()
